"""confluent-kafka: list, produce, consume, group.
Arguments: bootstrap address, topic, list of steps (kafka, password)."""

import sys
import time

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)
from steps import WRONG_PASSWORD, Steps, equal, librdkafka

bootstrap, topic, list_of_steps = sys.argv[1:]
base = librdkafka(bootstrap)
middle_ms = None


def metadata():
    admin = AdminClient(base)
    for created in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        created.result(10)
    told = admin.list_topics(timeout=10)
    equal(len(told.topics[topic].partitions), 1)
    equal([f"{b.host}:{b.port}" for b in told.brokers.values()], [bootstrap])


def produce(numbers):
    failures = []

    def delivered(error, _message):
        if error:
            failures.append(error)

    producer = Producer(base | {"acks": "all"})
    for n in numbers:
        headers = [("n", str(n)), ("n", None)]
        producer.produce(topic, f"v{n}", f"k{n}", headers=headers, on_delivery=delivered)
    equal(producer.flush(10), 0)
    equal(failures, [])


def produce_both_halves():
    global middle_ms
    produce(range(5))
    time.sleep(0.05)
    middle_ms = int(time.time() * 1000)
    time.sleep(0.05)
    produce(range(5, 10))


def take(consumer, count):
    got = []
    deadline = time.monotonic() + 20
    while len(got) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message and not message.error():
            got.append(message)
    equal(len(got), count)
    return got


def reader(offset):
    settings = {"group.id": "reader", "enable.auto.commit": False}
    consumer = Consumer(base | settings | {"enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, offset)])
    return consumer


def values(messages):
    return [message.value().decode() for message in messages]


def from_beginning():
    got = take(reader(confluent_kafka.OFFSET_BEGINNING), 10)
    equal(values(got), [f"v{n}" for n in range(10)])
    equal([message.key().decode() for message in got], [f"k{n}" for n in range(10)])
    equal(got[3].headers(), [("n", b"3"), ("n", None)])
    equal([message.offset() for message in got], list(range(10)))


def from_end():
    consumer = reader(confluent_kafka.OFFSET_END)
    # It says when it has arrived at the end.
    deadline = time.monotonic() + 20
    arrived = None
    while not arrived and time.monotonic() < deadline:
        arrived = consumer.poll(0.5)
    equal(arrived.error().code(), KafkaError._PARTITION_EOF)
    produce([10])
    equal(values(take(consumer, 1)), ["v10"])


def from_offset():
    equal(values(take(reader(7), 4)), ["v7", "v8", "v9", "v10"])


def from_timestamp():
    consumer = reader(confluent_kafka.OFFSET_BEGINNING)
    found = consumer.offsets_for_times([TopicPartition(topic, 0, middle_ms)], timeout=10)
    equal(found[0].offset, 5)
    equal(values(take(reader(found[0].offset), 1)), ["v5"])


def member():
    settings = {"group.id": "with-confluent", "auto.offset.reset": "earliest"}
    consumer = Consumer(base | settings | {"enable.auto.commit": False})
    consumer.subscribe([topic])
    return consumer


def join():
    consumer = member()
    equal(values(take(consumer, 4)), ["v0", "v1", "v2", "v3"])
    return consumer


def commit(consumer):
    done = consumer.commit(offsets=[TopicPartition(topic, 0, 4)], asynchronous=False)
    equal([(done[0].offset, done[0].error)], [(4, None)])
    consumer.close()


def resume():
    consumer = member()
    equal(values(take(consumer, 7))[0], "v4")
    equal(consumer.committed([TopicPartition(topic, 0)], timeout=10)[0].offset, 4)
    consumer.close()


def settings():
    admin = AdminClient(base)

    def policy():
        [described] = admin.describe_configs([ConfigResource("topic", topic)]).values()
        return described.result(10)["cleanup.policy"].value

    for operation, due in [("APPEND", "delete,compact"), ("SUBTRACT", "delete")]:
        entry = ConfigEntry(
            "cleanup.policy", "compact", incremental_operation=AlterConfigOpType[operation]
        )
        wanted = ConfigResource("topic", topic, incremental_configs=[entry])
        [changed] = admin.incremental_alter_configs([wanted]).values()
        changed.result(10)
        equal(sorted(policy().split(",")), sorted(due.split(",")))


def delete_records():
    admin = AdminClient(base)
    [deleted] = admin.delete_records([TopicPartition(topic, 0, 3)]).values()
    equal(deleted.result(10).low_watermark, 3)
    consumer = reader(confluent_kafka.OFFSET_BEGINNING)
    equal(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10), (3, 11))
    equal(values(take(consumer, 1)), ["v3"])


def delete_topic():
    admin = AdminClient(base)
    [deleted] = admin.delete_topics([topic]).values()
    deleted.result(10)
    equal(topic in admin.list_topics(timeout=10).topics, False)


def right_password():
    metadata()
    produce([0])
    equal(values(take(reader(0), 1)), ["v0"])


def wrong_password():
    codes = []
    settings = librdkafka(bootstrap, WRONG_PASSWORD)
    producer = Producer(settings | {"error_cb": lambda error: codes.append(error.code())})
    deadline = time.monotonic() + 20
    while not codes and time.monotonic() < deadline:
        producer.poll(0.5)
    equal(codes[:1], [KafkaError._AUTHENTICATION])


version = f"{confluent_kafka.__version__} (librdkafka {confluent_kafka.libversion()[0]})"
steps = Steps(version)
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
