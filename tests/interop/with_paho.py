"""paho-mqtt, MQTT 3.1.1 and 5.0.
Arguments: address, first level of the topics to use, list of steps (mqtt, password)."""

import queue
import socket
import sys
import threading

import paho.mqtt
from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from steps import CA, PASSWORD, USER, WRONG_PASSWORD, Steps, equal

address, first, list_of_steps = sys.argv[1:]
host, port = address.rsplit(":", 1)
DEADLINE_S = 20


class Connection:
    """A client with a thread of its own; what it hears waits in a queue."""

    def __init__(self, version, client_id="", keep_s=0, will=None, password=PASSWORD):
        self.version = version
        self.heard = queue.Queue()
        self.connected = queue.Queue()
        self.subscribed = threading.Event()
        clean = {} if version == MQTTv5 else {"clean_session": not keep_s}
        self.client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, **clean)
        self.client.on_message = lambda _c, _u, message: self.heard.put(message)
        self.client.on_connect = lambda _c, _u, flags, code, _p: self.connected.put((flags, code))
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        if CA:
            self.client.tls_set(CA)
        if USER:
            self.client.username_pw_set(USER, password)
        if will:
            self.client.will_set(will, "gone", qos=1)
        started = {}
        if version == MQTTv5:
            expiry = Properties(PacketTypes.CONNECT)
            expiry.SessionExpiryInterval = keep_s
            started = {"clean_start": not keep_s, "properties": expiry}
        self.client.connect(host, int(port), **started)
        self.client.loop_start()
        self.flags, self.code = self.connected.get(timeout=DEADLINE_S)

    def subscribe(self, topic, qos):
        self.subscribed.clear()
        self.client.subscribe(topic, qos)
        equal(self.subscribed.wait(DEADLINE_S), True)
        return self

    def publish(self, topic, payload, qos, retain=False):
        # For QoS 1 and 2 this is over when the broker has acknowledged it.
        told = self.client.publish(topic, payload, qos, retain)
        told.wait_for_publish(DEADLINE_S)
        equal(told.is_published(), True)

    def take(self, count):
        return [self.heard.get(timeout=DEADLINE_S) for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()


def payloads(messages):
    return [message.payload.decode() for message in messages]


def at_qos(version, root, qos):
    topic = f"{root}/qos{qos}/a"
    with Connection(version) as subscriber, Connection(version) as publisher:
        subscriber.subscribe(f"{root}/qos{qos}/#", 2)
        for n in range(100):
            publisher.publish(topic, f"v{n}", qos)
        got = subscriber.take(100)
    equal(payloads(got), [f"v{n}" for n in range(100)])
    equal({(m.topic, m.qos, m.retain) for m in got}, {(topic, qos, False)})


def retained(version, root):
    with Connection(version) as publisher:
        publisher.publish(f"{root}/kept/gone", "off", 1, retain=True)
        publisher.publish(f"{root}/kept/gone", "", 1, retain=True)
        publisher.publish(f"{root}/kept/a", "on", 1, retain=True)
        with Connection(version) as subscriber:
            subscriber.subscribe(f"{root}/kept/#", 1)
            # What is not retained comes behind what is.
            publisher.publish(f"{root}/kept/b", "live", 1)
            got = subscriber.take(2)
    equal([(m.payload, m.retain) for m in got], [(b"on", True), (b"live", False)])


def will(version, root):
    with Connection(version) as subscriber:
        subscriber.subscribe(f"{root}/will", 1)
        dying = Connection(version, will=f"{root}/will")
        dying.client.socket().shutdown(socket.SHUT_RDWR)
        equal(payloads(subscriber.take(1)), ["gone"])
        dying.client.loop_stop()


def kept_while_away(version, root):
    session = {"client_id": f"{root}-session", "keep_s": 3600}
    with Connection(version, **session) as subscriber:
        equal(subscriber.flags.session_present, False)
        subscriber.subscribe(f"{root}/away/#", 1)
    with Connection(version) as publisher:
        for n in range(10):
            publisher.publish(f"{root}/away/a", f"v{n}", 1)
    with Connection(version, **session) as subscriber:
        equal(subscriber.flags.session_present, True)
        equal(payloads(subscriber.take(10)), [f"v{n}" for n in range(10)])


def right_password(version, root):
    with Connection(version) as client:
        equal(str(client.code), "Success")
        client.subscribe(f"{root}/secret", 1)
        client.publish(f"{root}/secret", "told", 1)
        equal(payloads(client.take(1)), ["told"])


def wrong_password(version, _root):
    with Connection(version, password=WRONG_PASSWORD) as client:
        # (paho tells 3.1.1's code 4 as MQTT 5's code of the same meaning.)
        equal(str(client.code), "Bad user name or password")


steps = Steps(paho.mqtt.__version__)
for version, name in [(MQTTv311, "3.1.1"), (MQTTv5, "5.0")]:
    root = f"{first}-{name}"
    if list_of_steps == "password":
        steps.step(f"{name} right password", right_password, version, root)
        steps.step(f"{name} wrong password", wrong_password, version, root)
        continue
    for qos in range(3):
        steps.step(f"{name} QoS {qos}", at_qos, version, root, qos)
    steps.step(f"{name} retained", retained, version, root)
    steps.step(f"{name} will", will, version, root)
    steps.step(f"{name} kept while away", kept_while_away, version, root)
