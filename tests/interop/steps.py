"""What the clients' scripts share: the lists of steps, how a script is told whom to talk to,
and how it tells the run what it did: VERSION, PASS and FAIL lines.

`run` gives the address and a topic as arguments, and in the environment, where they are to be
used, INTEROP_CA (a file: use TLS and trust it), INTEROP_USER and INTEROP_PASSWORD. INTEROP_ASK is
the command that asks on a topic to be answered (ask.sh, which reaches the broker at INTEROP_TCP)."""

import logging
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

# What every Kafka client is put through, in this order; `run` counts a step that is not
# told of as failed.
KAFKA_STEPS = [
    "metadata",
    "produce",
    "consume from the beginning",
    "consume from the end",
    "consume from an offset",
    "consume from a timestamp",
    "group: join",
    "group: commit",
    "group: resume",
]
# And clients that change topics, at the end.
ADMIN_STEPS = ["admin: settings", "admin: delete records", "admin: delete a topic"]
ADMIN_CLIENTS = ["confluent-kafka", "kafka-python"]
# The console tools of the Java client.
CONSOLE_STEPS = [
    "topics --create, --list, --describe",
    "console-producer",
    "console-consumer --from-beginning",
    "console-consumer --group",
    "consumer-groups --describe",
    "delete-records",
    "topics --delete",
]
# What every MQTT client is put through, in each version that it speaks.
MQTT_STEPS = [
    "QoS 0",
    "QoS 1",
    "QoS 2",
    "retained",
    "will",
    "persistent session",
    "shared subscription",
]
# And in 5.0.
MQTT5_STEPS = [
    "retain handling",
    "retain as published",
    "no local",
    "subscription identifiers",
    "user properties",
    "topic alias to the broker",
    "topic alias from the broker",
    "message expiry",
    "session expiry",
    "will delay",
    "request and response",
    "answers mosquitto_rr",
    "reason for a DISCONNECT",
]
MQTT_VERSIONS = {
    "mosquitto": ["3.1", "3.1.1", "5.0"],
    "paho-mqtt": ["3.1", "3.1.1", "5.0"],
    "rumqttc": ["3.1.1", "5.0"],
    "mqtt.js": ["3.1", "3.1.1", "5.0"],
}
# What a client cannot ask for, or does not understand: mosquitto_sub closes the connection when
# a topic comes by its alias alone.
MQTT5_LACKING = {"mosquitto": ["no local", "topic alias from the broker"]}
# Every client, where there are users.
PASSWORD_STEPS = ["right password", "wrong password"]

CA = os.environ.get("INTEROP_CA")
USER = os.environ.get("INTEROP_USER")
PASSWORD = os.environ.get("INTEROP_PASSWORD")
WRONG_PASSWORD = "not the password"


def mqtt_steps(client):
    """What an MQTT client is put through, by the version and the step's name."""
    lacking = MQTT5_LACKING.get(client, [])
    steps = {version: list(MQTT_STEPS) for version in MQTT_VERSIONS[client]}
    steps["5.0"] += [step for step in MQTT5_STEPS if step not in lacking]
    return [f"{version} {step}" for version in steps for step in steps[version]]


def mqtt_password_steps(client):
    return [f"{version} {step}" for version in MQTT_VERSIONS[client] for step in PASSWORD_STEPS]


def librdkafka(bootstrap, password=PASSWORD):
    """Settings of a client that stands on librdkafka."""
    settings = {"bootstrap.servers": bootstrap, "broker.address.family": "v4"}
    if CA:
        settings["ssl.ca.location"] = CA
    if USER:
        settings |= {"sasl.mechanism": "PLAIN", "sasl.username": USER, "sasl.password": password}
    protocol = ("SASL_" if USER else "") + ("SSL" if CA else "PLAINTEXT")
    return settings | {"security.protocol": protocol}


class Log(logging.Handler):
    """What a client logs, for what it does not raise."""

    def __init__(self, logger):
        super().__init__()
        self.lines = []
        logging.getLogger(logger).addHandler(self)

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __str__(self):
        return "\n".join(self.lines)


class Steps:
    def __init__(self, version):
        print("VERSION", version, flush=True)

    def step(self, name, action, *arguments):
        """Runs one step; what it returns is handed on, None after a failure."""
        try:
            value = action(*arguments)
        except Exception as error:  # a client may raise anything, and each is a failed step
            self.failed(name, error)
            return None
        self.passed(name)
        return value

    async def astep(self, name, action, *arguments):
        """The same, of an action that is awaited."""
        try:
            value = await action(*arguments)
        except Exception as error:
            self.failed(name, error)
            return None
        self.passed(name)
        return value

    def steps(self, actions, *arguments):
        """Runs steps by their names, all at once: some wait for time to pass."""
        with ThreadPoolExecutor(len(actions)) as pool:
            for name, action in actions.items():
                pool.submit(self.step, name, action, *arguments)

    def passed(self, name):
        # In one piece, for steps may run beside each other.
        print(f"PASS {name}\n", end="", flush=True)

    def failed(self, name, error):
        traceback.print_exception(error, file=sys.stderr)
        why = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"FAIL {name}: {why}\n", end="", flush=True)


def equal(got, due):
    if got != due:
        raise AssertionError(f"got {got!r}, due {due!r}")


def contains(text, part):
    if part not in text:
        raise AssertionError(f"{part!r} is not in {text!r}")
