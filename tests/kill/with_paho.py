"""A paho-mqtt client that keeps its session while the broker is killed and started again.

    with_paho.py publish PORT VERSION QOS NAME            publishes until a line comes on stdin, then until all of it is
                                                          acknowledged, and tells how many
    with_paho.py subscribe PORT VERSION QOS NAME FILTER END   subscribes, says so, and tells at the end what came
                                                          until the topic END

VERSION is 3.1.1 or 5.0; topics and payloads are those of tests/support/src/load/sent.rs. paho keeps what is not
acknowledged in memory, and what it has of QoS 2 too. It runs in this one thread: in its own, what is published
while it connects can overtake what it sends again."""

import select
import sys
import time

from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MessageState
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

WINDOW = 16  # under way at once; paho's own limit is 20
TOPICS = 3
PAUSE_S = 0.01
ABSENCE_S = 60
QUIET_S = 0.5


class Session:
    def __init__(self, port, version, name):
        self.present = None
        protocol = {"3.1.1": MQTTv311, "5.0": MQTTv5}[version]
        kept = {"clean_session": False} if protocol == MQTTv311 else {}
        self.client = Client(CallbackAPIVersion.VERSION2, name, protocol=protocol, **kept)
        self.client.on_connect = self.connected
        options = {}
        if protocol == MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0xFFFFFFFF
            options = {"clean_start": False, "properties": properties}
        self.client.connect_async("127.0.0.1", port, **options)
        self.until(lambda: self.present is not None)

    def connected(self, _client, _userdata, flags, code, _properties):
        if code.is_failure:
            sys.exit(f"refused: {code}")
        if self.present is not None and not flags.session_present:
            sys.exit("the session is lost")
        self.present = flags.session_present

    def step(self, wait_s):
        """Hears and says what is due; connects again when the broker was away."""
        if self.client.loop(wait_s) == 0:
            return
        deadline = time.monotonic() + ABSENCE_S
        while True:
            self.remember_releases()
            try:
                self.client.reconnect()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        # Until it knows whether it is let in, it says nothing new.
        while not self.client.is_connected() and self.client.loop(0.05) == 0:
            pass

    def remember_releases(self):
        """paho 2.2 sends a PUBLISH again that had its PUBREC when it tries to connect a second time and has had no
        CONNACK in between: it does not know the state that the first try left."""
        for message in self.client._out_messages.values():
            if message.state == MessageState.MQTT_MS_RESEND_PUBREL:
                message.state = MessageState.MQTT_MS_WAIT_FOR_PUBCOMP

    def until(self, done, wait_s=0.05):
        deadline = time.monotonic() + ABSENCE_S
        while not done():
            if time.monotonic() > deadline:
                sys.exit(f"not within {ABSENCE_S} s")
            self.step(wait_s)


def publish(port, version, qos, name):
    session = Session(port, version, name)
    count, acknowledged = 0, set()
    session.client.on_publish = lambda _c, _u, mid, _code, _p: acknowledged.add(mid)
    while not select.select([sys.stdin], [], [], 0)[0]:
        if session.client.is_connected() and count - len(acknowledged) < WINDOW:
            topic = f"load/q{qos}/{name}/{count % TOPICS}"
            session.client.publish(topic, f"{name}:{count}", qos)
            count += 1
        session.step(PAUSE_S)
        time.sleep(PAUSE_S)
    session.until(lambda: len(acknowledged) == count)
    session.client.disconnect()
    print(count)


def subscribe(port, version, qos, name, topics, last):
    session = Session(port, version, name)
    got, subscribed = [], []
    session.client.on_message = lambda _c, _u, message: got.append(message)
    session.client.on_subscribe = lambda *_: subscribed.append(True)
    session.client.subscribe(topics, qos)
    session.until(lambda: subscribed)
    print("subscribed", flush=True)
    seen = 0
    while not any(message.topic == last for message in got[seen:]):
        seen = len(got)
        session.step(0.05)
    # What may come behind it.
    until = time.monotonic() + QUIET_S
    while time.monotonic() < until:
        session.step(0.05)
    for message in got:
        print(message.topic, message.payload.decode())


role, port, version, qos, *rest = sys.argv[1:]
{"publish": publish, "subscribe": subscribe}[role](int(port), version, int(qos), *rest)
