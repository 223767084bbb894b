"""A backend in Python, with confluent-kafka: a member of a consumer group that commits what it has dealt with.

    pip install confluent-kafka==2.16.1
    python3 examples/consumer.py
    python3 examples/consumer.py --broker gateway.local:9093 --ca certs/ca.crt --user backend --password-file secret

Start it several times: members share the partitions, and take over from one that goes. --count N ends
it after N records.
"""

import argparse
import sys

from confluent_kafka import Consumer

arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
arguments.add_argument("--broker", default="127.0.0.1:9092", help="where Millstream takes Kafka clients")
arguments.add_argument("--ca", help="the CA of its certificate, where it speaks TLS")
arguments.add_argument("--user")
arguments.add_argument("--password-file")
arguments.add_argument("--group", default="backend")
arguments.add_argument("--topic", default="mqtt", help="without mapping rules everything is in this one")
arguments.add_argument("--count", type=int, help="ends after this many records")
arguments = arguments.parse_args()

settings = {
    "bootstrap.servers": arguments.broker,
    "group.id": arguments.group,
    # A group that is new reads from the beginning.
    "auto.offset.reset": "earliest",
    # Committed by hand, below, when the record has been dealt with.
    "enable.auto.commit": False,
    "security.protocol": ("sasl_" if arguments.user else "") + ("ssl" if arguments.ca else "plaintext"),
}
if arguments.ca:
    settings["ssl.ca.location"] = arguments.ca
if arguments.user:
    with open(arguments.password_file, encoding="utf-8") as file:
        settings |= {
            "sasl.mechanisms": "PLAIN",
            "sasl.username": arguments.user,
            "sasl.password": file.read().rstrip("\n"),
        }

consumer = Consumer(settings)
consumer.subscribe([arguments.topic])
dealt_with = 0
try:
    while arguments.count is None or dealt_with < arguments.count:
        record = consumer.poll(1.0)
        if record is None:
            continue
        if record.error():
            print(record.error(), file=sys.stderr, flush=True)
            continue
        key, value = (record.key() or b"").decode(), (record.value() or b"").decode()
        print(f"{key} = {value}   (partition {record.partition()}, offset {record.offset()})", flush=True)
        # Synchronously, which costs a round trip per record; asynchronously, a crash repeats a few.
        consumer.commit(record, asynchronous=False)
        dealt_with += 1
except KeyboardInterrupt:
    sys.exit(130)
finally:
    consumer.close()
