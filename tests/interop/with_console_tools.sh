#!/bin/bash
# Kafka's console tools, by the names of their classes. Arguments: bootstrap address, topic, list
# of steps (console, password). The environment is explained in steps.py.
set -u
bootstrap=$1 topic=$2 list=$3
: "${scratch:?}" "${jars:?}" # from `run`: a folder for what is said, and where the jars are
here=$(dirname "$0")
# shellcheck source=lib.sh
. "$here/lib.sh"

settings=$scratch/console.properties
properties() { # password
  local protocol=PLAINTEXT
  [ -n "${INTEROP_CA-}" ] && protocol=SSL &&
    printf '%s\n' ssl.truststore.type=PEM "ssl.truststore.location=$INTEROP_CA"
  [ -n "${INTEROP_USER-}" ] && protocol=SASL_$protocol && printf '%s\n' sasl.mechanism=PLAIN \
    "sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
username=\"$INTEROP_USER\" password=\"$1\";"
  echo "security.protocol=$protocol"
}

tool() { # class arguments...
  timeout 60 java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$jars/*" \
    "org.apache.kafka.tools.$1" --bootstrap-server "$bootstrap" "${@:2}"
}

topics() {
  local told
  tool TopicCommand --command-config "$settings" --create --topic "$topic" --partitions 2 \
    --config retention.ms=86400000 &&
    told=$(tool TopicCommand --command-config "$settings" --list) &&
    contains $'\n'"$told"$'\n' $'\n'"$topic"$'\n' &&
    told=$(tool TopicCommand --command-config "$settings" --describe --topic "$topic") &&
    contains "$told" "PartitionCount: 2" && contains "$told" "Partition: 1" &&
    contains "$told" "retention.ms=86400000"
}

producer() {
  local n
  for n in {0..9}; do echo "k$n:v$n"; done | tool ConsoleProducer --producer.config "$settings" --topic "$topic" \
    --property parse.key=true --property key.separator=:
}

consumer() { # arguments...
  local told
  told=$(tool consumer.ConsoleConsumer --consumer.config "$settings" --topic "$topic" \
    --from-beginning --max-messages 10 --timeout-ms 30000 "$@") &&
    equal "$(sort <<<"$told")" "$(seq -f 'v%g' 0 9)"
}

groups() {
  local told
  told=$(tool consumer.group.ConsumerGroupCommand --command-config "$settings" --describe \
    --group with-console) || return 1
  # GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG
  equal "$(awk -v topic="$topic" '$2 == topic { read += $4; lag += $6 } END { print read, lag }' <<<"$told")" "10 0"
}

delete_records() {
  local told
  echo "{\"version\": 1, \"partitions\": [{\"topic\": \"$topic\", \"partition\": 0, \"offset\": 1}]}" \
    >"$scratch/offsets.json"
  told=$(tool DeleteRecordsCommand --command-config "$settings" --offset-json-file "$scratch/offsets.json") &&
    contains "$told" "low_watermark: 1"
}

delete_topic() {
  local told
  tool TopicCommand --command-config "$settings" --delete --topic "$topic" || return 1
  told=$(tool TopicCommand --command-config "$settings" --list) || return 1
  [[ $'\n'$told$'\n' != *$'\n'$topic$'\n'* ]] || {
    echo "it is still there" >&2
    return 1
  }
}

wrong_password() {
  local said
  properties 'not the password' >"$settings.wrong"
  said=$(tool TopicCommand --command-config "$settings.wrong" --list 2>&1) && {
    echo "it was let in: $said" >&2
    return 1
  }
  contains "$said" "Authentication failed: Invalid username or password"
}

echo "VERSION $(java -cp "$jars/*" org.apache.kafka.tools.TopicCommand --version | sed 's/ .*//')"
properties "${INTEROP_PASSWORD-}" >"$settings"
if [ "$list" = password ]; then
  step "right password" topics
  step "wrong password" wrong_password
  exit
fi
step "topics --create, --list, --describe" topics
step "console-producer" producer
step "console-consumer --from-beginning" consumer
step "console-consumer --group" consumer --group with-console
step "consumer-groups --describe" groups
step "delete-records" delete_records
step "topics --delete" delete_topic
