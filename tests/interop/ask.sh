#!/bin/bash
# mosquitto_rr asks on a topic, and prints the correlation data and the text of what is answered.
# Over TCP, unless more arguments say how to connect: who answers need not come the same way.
topic=$1
shift
[ $# -gt 0 ] || set -- -h "${INTEROP_TCP%:*}" -p "${INTEROP_TCP##*:}"
exec mosquitto_rr "$@" -V mqttv5 -q 1 -W 20 -F '%D %p' \
  -t "$topic" -e "$topic/answers" -m question -D publish correlation-data mark-7
