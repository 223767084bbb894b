"""aiokafka: list, produce, consume, group.
Arguments: bootstrap address, topic, list of steps (kafka, password)."""

import asyncio
import ssl
import sys
import time

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError
from steps import CA, PASSWORD, USER, WRONG_PASSWORD, Log, Steps, contains, equal

bootstrap, topic, list_of_steps = sys.argv[1:]
base = {"bootstrap_servers": bootstrap}
if CA:
    base |= {"security_protocol": "SASL_SSL" if USER else "SSL"}
    base |= {"ssl_context": ssl.create_default_context(cafile=CA)}
if USER:
    base |= {"sasl_mechanism": "PLAIN", "sasl_plain_username": USER}
    base |= {"sasl_plain_password": PASSWORD}
partition = TopicPartition(topic, 0)
middle_ms = None


async def metadata():
    admin = AIOKafkaAdminClient(**base)
    await admin.start()
    await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    equal(topic in await admin.list_topics(), True)
    told = await admin.describe_cluster()
    equal([f"{b['host']}:{b['port']}" for b in told["brokers"]], [bootstrap])
    [described] = await admin.describe_topics([topic])
    equal(len(described["partitions"]), 1)
    await admin.close()


async def produce(numbers):
    # Idempotent, with the batches of several sends in flight.
    async with AIOKafkaProducer(**base, acks="all", enable_idempotence=True) as producer:
        sent = [
            await producer.send(topic, f"v{n}".encode(), f"k{n}".encode(), headers=[("n", f"{n}".encode())])
            for n in numbers
        ]
        equal([(await one).offset for one in sent], list(numbers))


async def produce_both_halves():
    global middle_ms
    await produce(range(5))
    await asyncio.sleep(0.05)
    middle_ms = int(time.time() * 1000)
    await asyncio.sleep(0.05)
    await produce(range(5, 10))


async def reader():
    consumer = AIOKafkaConsumer(**base, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([partition])
    return consumer


async def take(consumer, count):
    got = []
    async with asyncio.timeout(20):
        while len(got) < count:
            got.append(await consumer.getone())
    return got


def values(records):
    return [record.value.decode() for record in records]


async def from_beginning():
    consumer = await reader()
    await consumer.seek_to_beginning(partition)
    got = await take(consumer, 10)
    equal(values(got), [f"v{n}" for n in range(10)])
    equal([record.key.decode() for record in got], [f"k{n}" for n in range(10)])
    equal(list(got[3].headers), [("n", b"3")])
    equal([record.offset for record in got], list(range(10)))
    await consumer.stop()


async def from_end():
    consumer = await reader()
    await consumer.seek_to_end(partition)
    equal(await consumer.position(partition), 10)
    equal(await consumer.end_offsets([partition]), {partition: 10})
    await produce([10])
    equal(values(await take(consumer, 1)), ["v10"])
    await consumer.stop()


async def from_offset():
    consumer = await reader()
    consumer.seek(partition, 7)
    equal(values(await take(consumer, 4)), ["v7", "v8", "v9", "v10"])
    await consumer.stop()


async def from_timestamp():
    consumer = await reader()
    found = await consumer.offsets_for_times({partition: middle_ms})
    equal(found[partition].offset, 5)
    consumer.seek(partition, found[partition].offset)
    equal(values(await take(consumer, 1)), ["v5"])
    await consumer.stop()


async def member():
    consumer = AIOKafkaConsumer(
        topic,
        **base,
        group_id="with-aiokafka",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    return consumer


async def join():
    consumer = await member()
    equal(values(await take(consumer, 4)), ["v0", "v1", "v2", "v3"])
    return consumer


async def commit(consumer):
    await consumer.commit({partition: 4})
    await consumer.stop()


async def resume():
    consumer = await member()
    equal(await consumer.committed(partition), 4)
    equal(values(await take(consumer, 7))[0], "v4")
    await consumer.stop()


async def right_password():
    await metadata()
    await produce([0])
    consumer = await reader()
    await consumer.seek_to_beginning(partition)
    equal(values(await take(consumer, 1)), ["v0"])
    await consumer.stop()


async def wrong_password():
    # Only its log says why.
    log = Log("aiokafka")
    consumer = AIOKafkaConsumer(**base | {"sasl_plain_password": WRONG_PASSWORD})
    try:
        await consumer.start()
    except KafkaConnectionError:
        contains(str(log), "SaslAuthenticationFailed")
        return
    finally:
        await consumer.stop()
    raise AssertionError("it was let in")


async def main():
    steps = Steps(aiokafka.__version__)
    if list_of_steps == "password":
        await steps.astep("right password", right_password)
        await steps.astep("wrong password", wrong_password)
        return
    await steps.astep("metadata", metadata)
    await steps.astep("produce", produce_both_halves)
    await steps.astep("consume from the beginning", from_beginning)
    await steps.astep("consume from the end", from_end)
    await steps.astep("consume from an offset", from_offset)
    await steps.astep("consume from a timestamp", from_timestamp)
    joined = await steps.astep("group: join", join)
    await steps.astep("group: commit", commit, joined)
    await steps.astep("group: resume", resume)


asyncio.run(main())
