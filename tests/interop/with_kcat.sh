#!/bin/bash
# kcat: list, produce, consume, group. Arguments: bootstrap address, topic, list of steps
# (kafka, password). The environment is explained in steps.py.
set -u
bootstrap=$1 topic=$2 list=$3
# From `run`: a folder for what is said, and a Python with confluent-kafka.
: "${scratch:?}" "${python:?}"
here=$(dirname "$0")
# shellcheck source=lib.sh
. "$here/lib.sh"
security=()
[ -n "${INTEROP_CA-}" ] && security+=(-X security.protocol=SSL -X ssl.ca.location="$INTEROP_CA")
[ -n "${INTEROP_USER-}" ] && security+=(-X security.protocol=SASL_SSL -X sasl.mechanism=PLAIN
  -X sasl.username="$INTEROP_USER" -X sasl.password="$INTEROP_PASSWORD")
kcat() { command timeout 30 kcat -b "$bootstrap" "${security[@]}" "$@"; }

echo "VERSION $(command kcat -V | sed -n 's/^Version //p' | sed 's/ (.*librdkafka \([0-9.]*\).*/ (librdkafka \1)/')"

numbered() { # letter low high
  seq -f "$1%g" "$2" "$3"
}

# (kcat cannot ask for a number of partitions.)
metadata() {
  local told
  "$python" "$here/create_topic.py" "$bootstrap" "$topic" || return 1
  told=$(kcat -L) || return 1
  contains "$told" "at $bootstrap" && contains "$told" "topic \"$topic\" with 1 partitions"
}

produce() { # low high
  local n
  for n in $(seq "$1" "$2"); do
    printf 'k%s:v%s\n' "$n" "$n" | kcat -P -t "$topic" -K: -H "n=$n" -X acks=all || return 1
  done
}

produce_both_halves() {
  produce 0 4 || return 1
  sleep 0.05
  middle_ms=$(date +%s%3N)
  sleep 0.05
  produce 5 9
}

from_beginning() {
  equal "$(kcat -C -q -t "$topic" -o beginning -e -f '%s\n')" "$(numbered v 0 9)" &&
    equal "$(kcat -C -q -t "$topic" -o beginning -e -f '%k\n')" "$(numbered k 0 9)" &&
    equal "$(kcat -C -q -t "$topic" -o beginning -c 4 -f '%o %h\n' | tail -1)" "3 n=3"
}

from_end() {
  local told="$scratch/kcat-end" reader
  kcat -C -t "$topic" -o end -c 1 -f '%s\n' >"$told" 2>"$told.err" &
  reader=$!
  until_contains "$told.err" "Reached end of topic" && produce 10 10 && wait "$reader" &&
    equal "$(cat "$told")" v10
}

from_offset() {
  equal "$(kcat -C -q -t "$topic" -o 7 -e -f '%s\n')" "$(numbered v 7 10)"
}

from_timestamp() {
  equal "$(kcat -C -q -t "$topic" -o "s@$middle_ms" -e -f '%s\n')" "$(numbered v 5 10)"
}

join() {
  equal "$(kcat -G with-kcat -q -X auto.offset.reset=earliest -c 4 -f '%s\n' "$topic")" \
    "$(numbered v 0 3)"
}

# What it read last is committed when it leaves, which the step before ended with.
commit() {
  local committed
  committed=$("$python" "$here/committed.py" "$bootstrap" with-kcat "$topic") &&
    equal "$committed" 4
}

resume() {
  equal "$(kcat -G with-kcat -q -X auto.offset.reset=earliest -c 7 -f '%s\n' "$topic")" \
    "$(numbered v 4 10)"
}

right_password() {
  "$python" "$here/create_topic.py" "$bootstrap" "$topic" && produce 0 0 &&
    equal "$(kcat -C -q -t "$topic" -o beginning -e -f '%s\n')" v0
}

wrong_password() {
  local told
  told=$(kcat -L -m 5 -X sasl.password="not the password" 2>&1) && {
    echo "it was let in: $told" >&2
    return 1
  }
  contains "$told" "SASL authentication error"
}

if [ "$list" = password ]; then
  step "right password" right_password
  step "wrong password" wrong_password
  exit
fi
step "metadata" metadata
step "produce" produce_both_halves
step "consume from the beginning" from_beginning
step "consume from the end" from_end
step "consume from an offset" from_offset
step "consume from a timestamp" from_timestamp
step "group: join" join
step "group: commit" commit
step "group: resume" resume
