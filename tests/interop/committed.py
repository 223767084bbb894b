"""Prints what a group has committed, summed over the partitions of a topic.
Arguments: bootstrap address, group, topic."""

import sys

from confluent_kafka import Consumer, TopicPartition
from steps import librdkafka

bootstrap, group, topic = sys.argv[1:]
consumer = Consumer(librdkafka(bootstrap) | {"group.id": group})
partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
asked = [TopicPartition(topic, partition) for partition in partitions]
print(sum(max(told.offset, 0) for told in consumer.committed(asked, timeout=10)))
