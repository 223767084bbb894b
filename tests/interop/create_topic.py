"""Creates a topic of one partition. Arguments: bootstrap address, topic."""

import sys

from confluent_kafka.admin import AdminClient, NewTopic
from steps import librdkafka

bootstrap, topic = sys.argv[1:]
admin = AdminClient(librdkafka(bootstrap))
for created in admin.create_topics([NewTopic(topic, 1, 1)]).values():
    created.result(10)
