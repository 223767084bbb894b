"""paho-mqtt, MQTT 3.1, 3.1.1 and 5.0.
Arguments: URL (mqtt, mqtts, ws or wss), first level of the topics to use, list of steps (mqtt,
password)."""

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import paho.mqtt
from paho.mqtt.client import Client, MQTTv5, MQTTv31, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions
from steps import CA, PASSWORD, USER, WRONG_PASSWORD, Steps, equal

url, first, list_of_steps = sys.argv[1:]
url = urlsplit(url)
DEADLINE_S = 20
VERSIONS = {"3.1": MQTTv31, "3.1.1": MQTTv311, "5.0": MQTTv5}


def with_properties(packet_type, values):
    properties = Properties(packet_type)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


class Connection:
    """A client with a thread of its own; what it hears waits in a queue."""

    def __init__(
        self,
        version,
        client_id="",
        keep_s=0,
        will=None,
        will_delay_s=0,
        alias_max=0,
        password=PASSWORD,
    ):
        self.version = version
        self.heard = queue.Queue()
        self.connected = queue.Queue()
        self.ended = queue.Queue()
        self.subscribed = threading.Event()
        self.client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=version,
            transport="websockets" if url.scheme in ("ws", "wss") else "tcp",
            reconnect_on_failure=False,
            **({} if version == MQTTv5 else {"clean_session": not keep_s}),
        )
        self.client.on_message = lambda _c, _u, message: self.heard.put(message)
        self.client.on_connect = lambda _c, _u, flags, code, _p: self.connected.put((flags, code))
        self.client.on_disconnect = lambda _c, _u, _f, code, p: self.ended.put((code, p))
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        if CA:
            self.client.tls_set(CA)
        if USER:
            self.client.username_pw_set(USER, password)
        started = {}
        if version == MQTTv5:
            session = {"SessionExpiryInterval": keep_s, "TopicAliasMaximum": alias_max}
            properties = with_properties(PacketTypes.CONNECT, session)
            started = {"clean_start": not keep_s, "properties": properties}
        if will:
            delay = {"WillDelayInterval": will_delay_s} if will_delay_s else {}
            properties = with_properties(PacketTypes.WILLMESSAGE, delay) if delay else None
            self.client.will_set(will, "gone", qos=1, properties=properties)
        if url.path:
            self.client.ws_set_options(url.path)
        self.client.connect(url.hostname, url.port, **started)
        self.client.loop_start()
        self.flags, self.code = self.connected.get(timeout=DEADLINE_S)

    def subscribe(self, topic, qos=1, identifier=None, **options):
        self.subscribed.clear()
        if self.version == MQTTv5:
            values = {"SubscriptionIdentifier": identifier} if identifier else {}
            properties = with_properties(PacketTypes.SUBSCRIBE, values)
            options = SubscribeOptions(qos, **options)
            self.client.subscribe(topic, options=options, properties=properties)
        else:
            self.client.subscribe(topic, qos)
        equal(self.subscribed.wait(DEADLINE_S), True)

    def publish(self, topic, payload, qos=1, retain=False, **values):
        # For QoS 1 and 2 this is over when the broker has acknowledged it.
        properties = with_properties(PacketTypes.PUBLISH, values) if values else None
        told = self.client.publish(topic, payload, qos, retain, properties)
        told.wait_for_publish(DEADLINE_S)
        equal(told.is_published(), True)

    def answer(self, question):
        asked = question.properties
        text = b"answer to " + question.payload
        self.publish(asked.ResponseTopic, text, CorrelationData=asked.CorrelationData)

    def take(self, count):
        return [self.heard.get(timeout=DEADLINE_S) for _ in range(count)]

    def take_until(self, payload):
        """What came before this, which nothing follows."""
        return list(iter(lambda: self.take(1)[0].payload.decode(), payload))

    def cut(self):
        """Ends the connection without a word."""
        # By its number: what paho makes of a socket for WebSocket cannot be shut down.
        with socket.socket(fileno=os.dup(self.client.socket().fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()


def payloads(messages):
    return [message.payload.decode() for message in messages]


def at_qos(qos):
    def step(version, root):
        topic = f"{root}/qos{qos}/a"
        with Connection(version) as subscriber, Connection(version) as publisher:
            subscriber.subscribe(f"{root}/qos{qos}/#", 2)
            for n in range(100):
                publisher.publish(topic, f"v{n}", qos)
            got = subscriber.take(100)
        equal(payloads(got), [f"v{n}" for n in range(100)])
        equal({(m.topic, m.qos, m.retain) for m in got}, {(topic, qos, False)})

    return step


def retained(version, root):
    with Connection(version) as publisher:
        publisher.publish(f"{root}/kept/gone", "off", retain=True)
        publisher.publish(f"{root}/kept/gone", "", retain=True)
        publisher.publish(f"{root}/kept/a", "on", retain=True)
        with Connection(version) as subscriber:
            subscriber.subscribe(f"{root}/kept/#")
            # What is not retained comes behind what is.
            publisher.publish(f"{root}/kept/b", "live")
            got = subscriber.take(2)
    equal([(m.payload, m.retain) for m in got], [(b"on", True), (b"live", False)])


def will(version, root):
    with Connection(version) as subscriber:
        subscriber.subscribe(f"{root}/will/#")
        with Connection(version, will=f"{root}/will/none"):
            pass  # One who says DISCONNECT leaves none.
        Connection(version, will=f"{root}/will/gone").cut()
        equal([m.topic for m in subscriber.take(1)], [f"{root}/will/gone"])


def persistent_session(version, root):
    session = {"client_id": f"{root}-session", "keep_s": 3600}
    with Connection(version, **session) as subscriber:
        equal(subscriber.flags.session_present, False)
        subscriber.subscribe(f"{root}/away/#", 2)
    with Connection(version) as publisher:
        for n in range(10):
            publisher.publish(f"{root}/away/a", f"v{n}", n % 2 + 1)
    with Connection(version, **session) as subscriber:
        # (3.1 has no such flag.)
        equal(subscriber.flags.session_present, version != MQTTv31)
        got = subscriber.take(10)
    for qos in (1, 2):
        # (Apart, for paho hands on a QoS 2 message when it is released.)
        equal(payloads(m for m in got if m.qos == qos), [f"v{n}" for n in range(qos - 1, 10, 2)])


def shared_subscription(version, root):
    with Connection(version) as publisher, Connection(version) as one, Connection(version) as other:
        for member in (one, other):
            member.subscribe(f"$share/group/{root}/shared/#")
            member.subscribe(f"{root}/end")
        for n in range(100):
            publisher.publish(f"{root}/shared/{n}", f"{n}")
        publisher.publish(f"{root}/end", "end")
        parts = [member.take_until("end") for member in (one, other)]
    equal(sorted(parts[0] + parts[1], key=int), [f"{n}" for n in range(100)])
    equal([bool(part) for part in parts], [True, True])


def retain_handling(version, root):
    # 0: always, 1: for a new subscription, 2: never.
    due = [
        [(0, True), (1, False), (0, True), (2, False)],
        [(1, True), (1, False)],
        [(2, False), (0, True)],
    ]
    with Connection(version) as publisher:
        publisher.publish(f"{root}/handling/a", "kept", retain=True)
        for subscriptions in due:
            with Connection(version) as subscriber:
                got = []
                for handling, _ in subscriptions:
                    subscriber.subscribe(f"{root}/handling/#", retainHandling=handling)
                    publisher.publish(f"{root}/handling/b", "end")
                    got.append((handling, subscriber.take_until("end") == ["kept"]))
            equal(got, subscriptions)


def retain_as_published(version, root):
    with Connection(version) as publisher, Connection(version) as one, Connection(version) as other:
        one.subscribe(f"{root}/flag", retainAsPublished=True)
        other.subscribe(f"{root}/flag")
        publisher.publish(f"{root}/flag", "up", retain=True)
        publisher.publish(f"{root}/flag", "down")
        equal([m.retain for m in one.take(2)], [True, False])
        equal([m.retain for m in other.take(2)], [False, False])


def no_local(version, root):
    with Connection(version) as one, Connection(version) as other:
        one.subscribe(f"{root}/local", noLocal=True)
        one.publish(f"{root}/local", "own")
        other.publish(f"{root}/local", "other's")
        equal(payloads(one.take(1)), ["other's"])


def subscription_identifiers(version, root):
    with Connection(version) as client:
        client.subscribe(f"{root}/number/#", identifier=7)
        client.subscribe(f"{root}/number/+", identifier=268_435_455)
        client.publish(f"{root}/number/a", "both")
        client.publish(f"{root}/number/a/b", "one")
        got = [sorted(m.properties.SubscriptionIdentifier) for m in client.take(2)]
    equal(got, [[7, 268_435_455], [7]])


def user_properties(version, root):
    pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("b", "1"), ("", "")]
    with Connection(version) as client:
        client.subscribe(f"{root}/pairs")
        more = {"ContentType": "text/plain", "PayloadFormatIndicator": 1}
        client.publish(f"{root}/pairs", "x", UserProperty=pairs, **more)
        got = client.take(1)[0].properties
    equal((got.UserProperty, got.ContentType, got.PayloadFormatIndicator), (pairs, "text/plain", 1))


def topic_alias_to_broker(version, root):
    with Connection(version) as client:
        client.subscribe(f"{root}/alias/#")
        for topic, alias in [("a", 1), ("", 1), ("b", 2), ("", 1), ("", 2), ("c", 1), ("", 1)]:
            client.publish(topic and f"{root}/alias/{topic}", "x", TopicAlias=alias)
        got = [m.topic.rpartition("/")[2] for m in client.take(7)]
    equal("".join(got), "aababcc")


def topic_alias_from_broker(version, root):
    with Connection(version, alias_max=2) as client:
        client.subscribe(f"{root}/alias-from/#")
        for topic in "abcabc":
            client.publish(f"{root}/alias-from/{topic}", topic)
        # (paho leaves it to its user to remember which topic an alias stands for.)
        got = [(m.topic[-1:], getattr(m.properties, "TopicAlias", None)) for m in client.take(6)]
    equal(got, [("a", 1), ("b", 2), ("c", None), ("", 1), ("", 2), ("c", None)])


def message_expiry(version, root):
    session = {"client_id": f"{root}-expiry", "keep_s": 3600}
    with Connection(version, **session) as subscriber:
        subscriber.subscribe(f"{root}/expiry/queued/#")
    with Connection(version) as publisher:
        for retain, way in [(False, "queued"), (True, "retained")]:
            for expiry_s in (1, 60):
                topic = f"{root}/expiry/{way}/{expiry_s}"
                publisher.publish(topic, way, retain=retain, MessageExpiryInterval=expiry_s)
        time.sleep(1.5)
        with Connection(version, **session) as subscriber:
            subscriber.subscribe(f"{root}/expiry/retained/#")
            publisher.publish(f"{root}/expiry/queued/end", "end")
            got = subscriber.take(3)
    equal(payloads(got), ["queued", "retained", "end"])
    for message in got[:2]:
        # Counted down.
        equal(50 <= message.properties.MessageExpiryInterval < 60, True)


def session_expiry(version, root):
    # As the CONNECT says, and as the DISCONNECT says then.
    due = {"a": (1, None, False), "b": (3600, 1, False), "c": (1, 3600, True)}
    for name, (keep_s, then_s, _) in due.items():
        connection = Connection(version, f"{root}-session-{name}", keep_s=keep_s)
        values = {} if then_s is None else {"SessionExpiryInterval": then_s}
        properties = with_properties(PacketTypes.DISCONNECT, values)
        connection.client.disconnect(properties=properties)
        connection.client.loop_stop()
    time.sleep(1.5)
    for name, (_, _, present) in due.items():
        with Connection(version, f"{root}-session-{name}", keep_s=1) as connection:
            equal((name, connection.flags.session_present), (name, present))


def will_delay(version, root):
    def dying(name):
        return Connection(
            version, f"{root}-{name}", keep_s=3600, will=f"{root}/late/{name}", will_delay_s=1
        )

    with Connection(version) as subscriber:
        subscriber.subscribe(f"{root}/late/#")
        # One who is back in time leaves no will.
        dying("back").cut()
        at = time.monotonic()
        dying("gone").cut()
        with Connection(version, f"{root}-back", keep_s=3600):
            equal([m.topic for m in subscriber.take(1)], [f"{root}/late/gone"])
        equal(0.9 < time.monotonic() - at, True)


def request_and_response(version, root):
    with Connection(version) as asking, Connection(version) as answering:
        asking.subscribe(f"{root}/answers")
        answering.subscribe(f"{root}/questions")
        for n in range(3):
            mark = {"ResponseTopic": f"{root}/answers", "CorrelationData": bytes([0, n, 0xFF])}
            asking.publish(f"{root}/questions", f"{n}", **mark)
        for question in reversed(answering.take(3)):
            answering.answer(question)
        got = [(m.payload, m.properties.CorrelationData) for m in asking.take(3)]
    equal(got, [(b"answer to %d" % n, bytes([0, n, 0xFF])) for n in (2, 1, 0)])


def answers_mosquitto_rr(version, root):
    with Connection(version) as answering:
        answering.subscribe(f"{root}/rr")
        command = [os.environ["INTEROP_ASK"], f"{root}/rr"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
            answering.answer(answering.take(1)[0])
            equal(asking.communicate(timeout=DEADLINE_S)[0], "mark-7 answer to question\n")


def reason_for_a_disconnect(version, root):
    with Connection(version, f"{root}-double") as first, Connection(version, f"{root}-double"):
        code, _ = first.ended.get(timeout=DEADLINE_S)
        equal(code.value, 0x8E)
    with Connection(version) as client:
        # No Local on a shared subscription is a protocol error.
        client.client.subscribe(f"$share/group/{root}/x", options=SubscribeOptions(1, noLocal=True))
        code, properties = client.ended.get(timeout=DEADLINE_S)
        equal(code.value, 0x82)
        equal(bool(properties.ReasonString), True)


def right_password(version, root):
    with Connection(version) as client:
        equal(str(client.code), "Success")
        client.subscribe(f"{root}/secret")
        client.publish(f"{root}/secret", "told")
        equal(payloads(client.take(1)), ["told"])


def wrong_password(version, _root):
    with Connection(version, password=WRONG_PASSWORD) as client:
        # (paho tells 3.1.1's code 4 as MQTT 5's code of the same meaning.)
        equal(str(client.code), "Bad user name or password")


ALL = {
    "QoS 0": at_qos(0),
    "QoS 1": at_qos(1),
    "QoS 2": at_qos(2),
    "retained": retained,
    "will": will,
    "persistent session": persistent_session,
    "shared subscription": shared_subscription,
}
ONLY_5 = {
    "retain handling": retain_handling,
    "retain as published": retain_as_published,
    "no local": no_local,
    "subscription identifiers": subscription_identifiers,
    "user properties": user_properties,
    "topic alias to the broker": topic_alias_to_broker,
    "topic alias from the broker": topic_alias_from_broker,
    "message expiry": message_expiry,
    "session expiry": session_expiry,
    "will delay": will_delay,
    "request and response": request_and_response,
    "answers mosquitto_rr": answers_mosquitto_rr,
    "reason for a DISCONNECT": reason_for_a_disconnect,
}
PASSWORD_ONLY = {"right password": right_password, "wrong password": wrong_password}

told = Steps(paho.mqtt.__version__)
for name, version in VERSIONS.items():
    actions = ALL | (ONLY_5 if version == MQTTv5 else {})
    if list_of_steps == "password":
        actions = PASSWORD_ONLY
    named = {f"{name} {step}": action for step, action in actions.items()}
    told.steps(named, version, f"{first}-{name}")
