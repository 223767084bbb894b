"""How a client's script tells the run what it did: VERSION, PASS and FAIL lines."""

import sys
import traceback

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


class Steps:
    def __init__(self, version):
        print("VERSION", version, flush=True)

    def step(self, name, action, *arguments):
        """Runs one step; what it returns is handed on, None after a failure."""
        try:
            value = action(*arguments)
        except Exception as error:  # a client may raise anything, and each is a failed step
            traceback.print_exc(file=sys.stderr)
            why = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"FAIL {name}: {why}", flush=True)
            return None
        print("PASS", name, flush=True)
        return value


def equal(got, due):
    if got != due:
        raise AssertionError(f"got {got!r}, due {due!r}")
