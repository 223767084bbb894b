"""A sensor in Python, with paho-mqtt: MQTT 5.0, QoS 1, a reading per second.

    pip install paho-mqtt==2.1.0
    python3 examples/sensor.py
    python3 examples/sensor.py --broker gateway.local:8883 --ca certs/ca.crt --user kitchen --password-file secret

It goes on where it was when the connection breaks: the broker keeps its session for an hour, and what
was not acknowledged is sent again. --count N ends it after N acknowledged readings.
"""

import argparse
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
arguments.add_argument("--broker", default="127.0.0.1:1883", help="where Millstream takes MQTT")
arguments.add_argument("--ca", help="the CA of its certificate, where it speaks TLS")
arguments.add_argument("--user")
arguments.add_argument("--password-file")
arguments.add_argument("--name", default="kitchen", help="what the sensor is called")
arguments.add_argument("--every", type=float, default=1.0, help="seconds between readings")
arguments.add_argument("--count", type=int, help="ends after this many acknowledged readings")
arguments = arguments.parse_args()


def on_connect(client, userdata, flags, reason, properties):
    print("connected" if not reason.is_failure else f"refused: {reason}", flush=True)


def on_publish(client, userdata, message_id, reason, properties):
    # QoS 1: this is the broker's word that the reading is on its disk.
    global acknowledged
    acknowledged += 1
    print(f"{acknowledged} of {readings} readings are on the broker's disk", flush=True)


readings = acknowledged = 0
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"sensor-{arguments.name}", protocol=mqtt.MQTTv5)
client.on_connect = on_connect
client.on_publish = on_publish
if arguments.ca:
    client.tls_set(ca_certs=arguments.ca)
if arguments.user:
    with open(arguments.password_file, encoding="utf-8") as file:
        client.username_pw_set(arguments.user, file.read().rstrip("\n"))

session = Properties(PacketTypes.CONNECT)
session.SessionExpiryInterval = 3600
host, port = arguments.broker.rsplit(":", 1)
client.connect(host, int(port), keepalive=30, clean_start=False, properties=session)
client.loop_start()
try:
    while arguments.count is None or acknowledged < arguments.count:
        if arguments.count is None or readings < arguments.count:
            celsius = 21.0 + readings % 10 / 10
            readings += 1
            client.publish(f"sensors/{arguments.name}/temp", f"{celsius:.1f}", qos=1)
        time.sleep(arguments.every)
except KeyboardInterrupt:
    sys.exit(130)
finally:
    client.disconnect()
    client.loop_stop()
