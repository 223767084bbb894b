#!/bin/bash
# mosquitto_pub, mosquitto_sub and mosquitto_rr, MQTT 3.1, 3.1.1 and 5.0. Arguments: address, first
# level of the topics to use, list of steps (mqtt, password). The environment is explained in steps.py.
set -u
address=$1 root=$2 list=$3
: "${scratch:?}" # from `run`: a folder for what is said
here=$(dirname "$0")
# shellcheck source=lib.sh
. "$here/lib.sh"

echo "VERSION $(command mosquitto_pub --version 2>&1 | sed -n 's/.*version \([0-9.]*\).*/\1/p')"

reach=(-h "${address%:*}" -p "${address##*:}")
[ -n "${INTEROP_CA-}" ] && reach+=(--cafile "$INTEROP_CA")
[ -n "${INTEROP_USER-}" ] && reach+=(-u "$INTEROP_USER" -P "$INTEROP_PASSWORD")
format='%q %r %t %p'
pub() { timeout 30 mosquitto_pub "${reach[@]}" -V "$version" "$@"; }
sub() { timeout 30 mosquitto_sub "${reach[@]}" -V "$version" -F "$format" "$@"; }

# Subscribes in the background and waits until it is subscribed: it does not say so, but a
# retained message of its own does. Sets `listener`, and `said`, a file of what it prints.
listen() { # name filter more...
  said="$scratch/mosquitto-$version-$1"
  local filter=$2
  shift 2
  local mark="$root/here/${said##*/}"
  pub -t "$mark" -q 1 -r -m here || return 1
  # Not by `sub`: `kill` is to end the client, not a shell around it (stdbuf turns into it).
  stdbuf -oL mosquitto_sub "${reach[@]}" -V "$version" -F "$format" -q 2 -t "$filter" -t "$mark" \
    "$@" >"$said" 2>&1 &
  listener=$!
  until_contains "$said" "$mark here"
}

# What it heard, when this has come.
heard_until() { # text
  until_contains "$said" "$1" || return 1
  kill "$listener" && wait "$listener" 2>/dev/null
  grep -v "$root/here/" "$said"
}

qos() { # level
  local qos=$1 n
  listen "qos$qos" "$root/qos$qos/#" || return 1
  for n in 0 1 2; do
    pub -t "$root/qos$qos/a" -q "$qos" -m "v$n" || return 1
  done
  seq -f 'v%g' 3 102 | pub -t "$root/qos$qos/a" -q "$qos" -l || return 1
  equal "$(heard_until v102)" "$(seq -f "$qos 0 $root/qos$qos/a v%g" 0 102)"
}

retained() {
  pub -t "$root/kept" -q 1 -r -m on && pub -t "$root/kept/gone" -q 1 -r -m off &&
    pub -t "$root/kept/gone" -q 1 -r -n && pub -t "$root/last" -q 1 -r -m last &&
    equal "$(sub -q 1 -t "$root/kept/#" -t "$root/last" -C 2 | sort)" \
      "$(printf '1 1 %s\n' "$root/kept on" "$root/last last")"
}

will() {
  local dying will=(--will-payload gone --will-qos 1 --will-topic)
  listen dies "$root/x" "${will[@]}" "$root/will/gone" || return 1
  dying=$listener
  # One who says DISCONNECT leaves none.
  listen will "$root/will/#" && sub -t "$root/x" "${will[@]}" "$root/will/none" -E || return 1
  kill -9 "$dying" && wait "$dying" 2>/dev/null
  equal "$(heard_until gone)" "1 0 $root/will/gone gone"
}

persistent_session() {
  local session=(-i "$root-session" -c -q 2 -t "$root/away/#") qos
  [ "$version" = mqttv5 ] && session+=(-x 3600)
  sub "${session[@]}" -E || return 1
  for qos in 1 2; do
    seq -f 'v%g' 0 9 | pub -t "$root/away/a" -q "$qos" -l || return 1
  done
  equal "$(sub "${session[@]}" -C 20)" "$(seq -f "1 0 $root/away/a v%g" 0 9 && seq -f "2 0 $root/away/a v%g" 0 9)"
}

shared_subscription() {
  local name members=() parts=()
  for name in one two; do
    listen "$name" "\$share/group/$root/shared/#" -t "$root/end" || return 1
    members+=("$listener")
  done
  seq 100 | pub -t "$root/shared/a" -q 1 -l && pub -t "$root/end" -q 1 -m end || return 1
  for name in one two; do
    listener=${members[${#parts[@]}]} said="$scratch/mosquitto-$version-$name"
    parts+=("$(heard_until "$root/end end")")
    contains "${parts[-1]}" "$root/shared/" || return 1
  done
  # Each heard of the end.
  equal "$(printf '%s\n' "${parts[@]}" | sed 's/.* //' | sort -n)" "$(printf 'end\nend\n' && seq 100)"
}

# mosquitto_sub can ask for a topic's retained message or not (-R); -d shows what comes all the same.
retain_handling() {
  local topic=$root/handling/a due more
  pub -t "$topic" -q 1 -r -m kept || return 1
  for due in 1 0; do
    more=(-d) && [ "$due" = 0 ] && more+=(-R)
    said="$scratch/mosquitto-handling-$due"
    stdbuf -oL mosquitto_sub "${reach[@]}" -V "$version" -t "$root/handling/#" "${more[@]}" >"$said" 2>&1 &
    listener=$!
    # What is not retained comes behind what is.
    until_contains "$said" "received SUBACK" && pub -t "$root/handling/b" -m end || return 1
    equal "$(heard_until "'$root/handling/b'" | grep -c "received PUBLISH (.*'$topic'")" "$due" || return 1
  done
}

retain_as_published() {
  listen rap "$root/flag" --retain-as-published || return 1
  pub -t "$root/flag" -q 1 -r -m up && pub -t "$root/flag" -q 1 -m down || return 1
  equal "$(heard_until down)" "1 1 $root/flag up"$'\n'"1 0 $root/flag down"
}

subscription_identifiers() {
  local format='%t %p %S' topic=$root/number
  listen number "$topic/#" -D subscribe subscription-identifier 7 || return 1
  pub -t "$topic/a" -m x && equal "$(heard_until "$topic/a x")" "$topic/a x 7"
}

user_properties() {
  local format='%p [%P] %C %F' pairs=(b 1 a 2 b 3 b 1) more=() n
  for ((n = 0; n < ${#pairs[@]}; n += 2)); do
    more+=(-D publish user-property "${pairs[n]}" "${pairs[n + 1]}")
  done
  pub -t "$root/pairs" -q 1 -r -m x "${more[@]}" \
    -D publish content-type text/plain -D publish payload-format-indicator 1 &&
    equal "$(sub -q 1 -t "$root/pairs" -C 1)" "x [b:1 a:2 b:3 b:1] text/plain 1"
}

topic_alias_to_the_broker() {
  # From the second line on mosquitto_pub gives the alias alone.
  listen alias "$root/alias/#" || return 1
  seq 5 | pub -t "$root/alias/a" -q 1 -l -D publish topic-alias 1 || return 1
  equal "$(heard_until "$root/alias/a 5")" "$(seq -f "1 0 $root/alias/a %g" 5)"
}

message_expiry() {
  local session=(-i "$root-expiry" -c -x 3600 -q 1 -t "$root/expiry/queued/#") expiry got
  sub "${session[@]}" -E || return 1
  for expiry in 1 60; do
    pub -t "$root/expiry/queued/$expiry" -q 1 -m queued -D publish message-expiry-interval "$expiry" &&
      pub -t "$root/expiry/retained/$expiry" -q 1 -r -m retained \
        -D publish message-expiry-interval "$expiry" || return 1
  done
  sleep 1.5
  got=$(format='%E %p' sub "${session[@]}" -t "$root/expiry/retained/#" -C 2) || return 1
  # Counted down.
  [[ $got == 5?" queued"$'\n'5?" retained" ]] && return
  echo "got $(printf %q "$got")" >&2
  return 1
}

session_expiry() {
  # As the CONNECT says, and as the DISCONNECT says then.
  local -A due=([a]="-x 1" [b]="-x 3600 -D disconnect session-expiry-interval 1"
    [c]="-x 1 -D disconnect session-expiry-interval 3600")
  local name got=()
  for name in "${!due[@]}"; do
    # shellcheck disable=SC2086 # several words
    sub -i "$root-$name" -c ${due[$name]} -q 1 -t "$root/session/$name" -E || return 1
  done
  sleep 1.5
  for name in a b c; do
    pub -t "$root/session/$name" -q 1 -m missed && pub -t "$root/session" -q 1 -r -m here || return 1
    # What waited comes before what is retained.
    got+=("$name $(format=%p sub -i "$root-$name" -c -x 1 -q 1 -t "$root/session" -C 1)")
  done
  equal "${got[*]}" "a here b here c missed"
}

# Connected with a will that is to come 1 s after its end. Sets `listener`.
dying() { # name
  listen "dying-$1" "$root/x" -i "$root-$1" -c -x 3600 --will-topic "$root/late/$1" \
    --will-payload gone --will-qos 1 -D will will-delay-interval 1
}

will_delay() {
  local back gone at waited
  dying back && back=$listener && dying gone && gone=$listener &&
    listen late "$root/late/#" || return 1
  # One who is back in time leaves no will.
  kill -9 "$back" && wait "$back" 2>/dev/null
  at=${EPOCHREALTIME/./}
  kill -9 "$gone" && wait "$gone" 2>/dev/null
  sub -i "$root-back" -c -x 3600 -t "$root/x" -E || return 1
  equal "$(heard_until gone)" "1 0 $root/late/gone gone" || return 1
  waited=$((${EPOCHREALTIME/./} - at))
  [ "$waited" -gt 900000 ] && return
  echo "it came after $waited us" >&2
  return 1
}

request_and_response() {
  local n topic payload answers_to=$root/answers mark asking asking_said format='%t %p %R %D'
  listen answers "$answers_to" || return 1
  asking=$listener asking_said=$said
  listen questions "$root/questions" || return 1
  for n in 1 2 3; do
    pub -t "$root/questions" -q 1 -m "$n" -D publish response-topic "$answers_to" \
      -D publish correlation-data "mark-$n" || return 1
  done
  while read -r topic payload answers_to mark; do
    pub -t "$answers_to" -q 1 -m "answer-to-$payload" -D publish correlation-data "$mark" || return 1
  done < <(heard_until "$root/questions 3" | tac)
  listener=$asking said=$asking_said
  equal "$(heard_until answer-to-1)" "$(printf "$root/answers answer-to-%s  mark-%s\n" 3 3 2 2 1 1)"
}

answers_mosquitto_rr() {
  local format='%t %p %R %D' answered="$scratch/mosquitto-answered" topic=$root/rr asking
  listen asked "$topic" || return 1
  "$here/ask.sh" "$topic" "${reach[@]}" >"$answered" &
  asking=$!
  equal "$(heard_until "$topic question")" "$topic question $topic/answers mark-7" &&
    pub -t "$topic/answers" -q 1 -m "answer to question" -D publish correlation-data mark-7 &&
    wait "$asking" && equal "$(cat "$answered")" "mark-7 answer to question"
}

reason_for_a_disconnect() {
  listen double "$root/x" -i "$root-double" -d && sub -i "$root-double" -t "$root/x" -E || return 1
  # Session taken over.
  heard_until "Received DISCONNECT (142)" >/dev/null
}

right_password() {
  pub -t "$root/secret" -q 1 -r -m told && equal "$(sub -q 1 -t "$root/secret" -C 1)" "1 1 $root/secret told"
}

wrong_password() {
  local said
  said=$(pub -t "$root/secret" -q 1 -m x -P 'not the password' 2>&1) && {
    echo "it was let in" >&2
    return 1
  }
  contains "${said,,}" "bad user name or password"
}

first=$root
for name in 3.1 3.1.1 5.0; do
  case $name in
  3.1) version=mqttv31 ;;
  3.1.1) version=mqttv311 ;;
  *) version=mqttv5 ;;
  esac
  root=$first-$name
  if [ "$list" = password ]; then
    step "$name right password" right_password
    step "$name wrong password" wrong_password
    continue
  fi
  # All at once: some wait for time to pass.
  step "$name QoS 0" qos 0 &
  step "$name QoS 1" qos 1 &
  step "$name QoS 2" qos 2 &
  step "$name retained" retained &
  step "$name will" will &
  step "$name persistent session" persistent_session &
  step "$name shared subscription" shared_subscription &
  if [ "$name" = 5.0 ]; then
    step "$name retain handling" retain_handling &
    step "$name retain as published" retain_as_published &
    step "$name subscription identifiers" subscription_identifiers &
    step "$name user properties" user_properties &
    step "$name topic alias to the broker" topic_alias_to_the_broker &
    step "$name message expiry" message_expiry &
    step "$name session expiry" session_expiry &
    step "$name will delay" will_delay &
    step "$name request and response" request_and_response &
    step "$name answers mosquitto_rr" answers_mosquitto_rr &
    step "$name reason for a DISCONNECT" reason_for_a_disconnect &
  fi
  wait
done
