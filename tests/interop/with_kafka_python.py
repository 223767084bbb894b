"""kafka-python: list, produce, consume, group.
Arguments: bootstrap address, topic, list of steps (kafka, password)."""

import sys
import time

import kafka
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, KafkaAdminClient, NewTopic
from kafka.errors import KafkaTimeoutError
from steps import CA, PASSWORD, USER, WRONG_PASSWORD, Log, Steps, contains, equal

try:
    from kafka.structs import OffsetAndMetadata
except ImportError:
    from kafka import OffsetAndMetadata

bootstrap, topic, list_of_steps = sys.argv[1:]
base = {"bootstrap_servers": bootstrap}
if CA:
    base |= {"security_protocol": "SASL_SSL" if USER else "SSL", "ssl_cafile": CA}
if USER:
    base |= {"sasl_mechanism": "PLAIN", "sasl_plain_username": USER}
    base |= {"sasl_plain_password": PASSWORD}
partition = TopicPartition(topic, 0)
middle_ms = None


def metadata():
    admin = KafkaAdminClient(**base)
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    admin.close()
    consumer = KafkaConsumer(**base)
    equal(topic in consumer.topics(), True)
    equal(consumer.partitions_for_topic(topic), {0})
    consumer.close()


def produce(numbers):
    producer = KafkaProducer(**base, acks="all")
    for n in numbers:
        headers = [("n", str(n).encode())]
        sent = producer.send(topic, f"v{n}".encode(), f"k{n}".encode(), headers=headers)
        equal(sent.get(timeout=10).offset, n)
    producer.close()


def produce_both_halves():
    global middle_ms
    produce(range(5))
    time.sleep(0.05)
    middle_ms = int(time.time() * 1000)
    time.sleep(0.05)
    produce(range(5, 10))


def reader():
    consumer = KafkaConsumer(**base, enable_auto_commit=False)
    consumer.assign([partition])
    return consumer


def take(consumer, count):
    got = []
    deadline = time.monotonic() + 20
    while len(got) < count and time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=500).values():
            got.extend(records)
    equal(len(got) >= count, True)
    return got[:count]


def values(records):
    return [record.value.decode() for record in records]


def from_beginning():
    consumer = reader()
    consumer.seek_to_beginning(partition)
    got = take(consumer, 10)
    equal(values(got), [f"v{n}" for n in range(10)])
    equal([record.key.decode() for record in got], [f"k{n}" for n in range(10)])
    equal([tuple(header) for header in got[3].headers], [("n", b"3")])
    equal([record.offset for record in got], list(range(10)))
    consumer.close()


def from_end():
    consumer = reader()
    consumer.seek_to_end(partition)
    equal(consumer.position(partition), 10)
    equal(consumer.end_offsets([partition]), {partition: 10})
    produce([10])
    equal(values(take(consumer, 1)), ["v10"])
    consumer.close()


def from_offset():
    consumer = reader()
    consumer.seek(partition, 7)
    equal(values(take(consumer, 4)), ["v7", "v8", "v9", "v10"])
    consumer.close()


def from_timestamp():
    consumer = reader()
    equal(consumer.offsets_for_times({partition: middle_ms})[partition].offset, 5)
    consumer.close()


def member():
    return KafkaConsumer(
        topic,
        **base,
        group_id="with-kafka-python",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )


def join():
    consumer = member()
    equal(values(take(consumer, 4)), ["v0", "v1", "v2", "v3"])
    return consumer


def commit(consumer):
    consumer.commit({partition: OffsetAndMetadata(4, "by hand", -1)})
    equal(consumer.committed(partition), 4)
    consumer.close()


def resume():
    consumer = member()
    equal(values(take(consumer, 7))[0], "v4")
    consumer.close()


def settings():
    admin = KafkaAdminClient(**base)
    admin.alter_configs([ConfigResource("topic", topic, {"retention.ms": "86400000"})])
    told = admin.describe_configs([ConfigResource("topic", topic)])["topic"][topic]["retention.ms"]
    equal((told["value"], told["config_source"]), ("86400000", "DYNAMIC_TOPIC_CONFIG"))
    admin.close()


def delete_records():
    admin = KafkaAdminClient(**base)
    admin.delete_records({partition: 3})
    admin.close()
    consumer = reader()
    equal(consumer.beginning_offsets([partition]), {partition: 3})
    consumer.seek_to_beginning(partition)
    equal(values(take(consumer, 1)), ["v3"])
    consumer.close()


def delete_topic():
    admin = KafkaAdminClient(**base)
    admin.delete_topics([topic])
    equal(topic in admin.list_topics(), False)
    admin.close()


def right_password():
    metadata()
    produce([0])
    consumer = reader()
    consumer.seek_to_beginning(partition)
    equal(values(take(consumer, 1)), ["v0"])
    consumer.close()


def wrong_password():
    # It tries again until its time is over; only its log says why.
    log = Log("kafka")
    wrong = {"sasl_plain_password": WRONG_PASSWORD, "bootstrap_timeout_ms": 3000}
    try:
        KafkaAdminClient(**base | wrong)
    except KafkaTimeoutError:
        contains(str(log), "SaslAuthenticationFailedError")
        return
    raise AssertionError("it was let in")


steps = Steps(kafka.__version__)
if list_of_steps == "password":
    steps.step("right password", right_password)
    steps.step("wrong password", wrong_password)
    sys.exit()
steps.step("metadata", metadata)
steps.step("produce", produce_both_halves)
steps.step("consume from the beginning", from_beginning)
steps.step("consume from the end", from_end)
steps.step("consume from an offset", from_offset)
steps.step("consume from a timestamp", from_timestamp)
joined = steps.step("group: join", join)
steps.step("group: commit", commit, joined)
steps.step("group: resume", resume)
steps.step("admin: settings", settings)
steps.step("admin: delete records", delete_records)
steps.step("admin: delete a topic", delete_topic)
