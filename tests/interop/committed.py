"""Prints what a group has committed, summed over the partitions of a topic.
Arguments: bootstrap address, group, topic."""

import sys

from confluent_kafka import Consumer, TopicPartition

bootstrap, group, topic = sys.argv[1:]
settings = {"bootstrap.servers": bootstrap, "broker.address.family": "v4", "group.id": group}
consumer = Consumer(settings)
partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
asked = [TopicPartition(topic, partition) for partition in partitions]
print(sum(max(told.offset, 0) for told in consumer.committed(asked, timeout=10)))
