#!/bin/bash
# mosquitto_pub and mosquitto_sub, MQTT 3.1.1 and 5.0. Arguments: address, first level of the
# topics to use, list of steps (mqtt, password). The environment is explained in steps.py.
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
pub() { timeout 30 mosquitto_pub "${reach[@]}" -V "$version" "$@"; }
sub() { timeout 30 mosquitto_sub "${reach[@]}" -V "$version" -F '%q %r %t %p' "$@"; }

# Subscribes in the background and waits until it is subscribed: it does not say so, but a
# retained message of its own does. Sets `listener`.
listen() { # file filter more...
  local file=$1 filter=$2
  shift 2
  pub -t "$root/here" -q 1 -r -m here || return 1
  # Not by `sub`: `kill` is to end the client, not a shell around it.
  mosquitto_sub "${reach[@]}" -V "$version" -F '%q %r %t %p' -q 2 -t "$filter" -t "$root/here" \
    "$@" >"$file" 2>&1 &
  listener=$!
  until_contains "$file" "1 1 $root/here here"
}

qos() { # level
  local qos=$1 said="$scratch/mosquitto-qos$1" n
  listen "$said" "$root/qos$qos/#" || return 1
  for n in 0 1 2; do
    pub -t "$root/qos$qos/a" -q "$qos" -m "v$n" || return 1
  done
  seq -f 'v%g' 3 102 | pub -t "$root/qos$qos/a" -q "$qos" -l || return 1
  until_contains "$said" v102
  kill "$listener" && wait "$listener" 2>/dev/null
  equal "$(grep -v here "$said")" "$(seq -f "$qos 0 $root/qos$qos/a v%g" 0 102)"
}

retained() {
  pub -t "$root/kept" -q 1 -r -m on && pub -t "$root/kept/gone" -q 1 -r -m off &&
    pub -t "$root/kept/gone" -q 1 -r -n &&
    equal "$(sub -q 1 -t "$root/kept/#" -t "$root/here" -C 2 | sort)" \
      "$(printf '1 1 %s\n' "$root/here here" "$root/kept on" | sort)"
}

will() {
  local said="$scratch/mosquitto-will" dying
  listen "$scratch/mosquitto-dies" "$root/x" \
    --will-topic "$root/will" --will-payload gone --will-qos 1 || return 1
  dying=$listener
  listen "$said" "$root/will" || return 1
  kill -9 "$dying" && wait "$dying" 2>/dev/null
  until_contains "$said" "1 0 $root/will gone"
  local status=$?
  kill "$listener"
  return $status
}

kept_while_away() {
  local session=(-i "$root-session" -c -q 1 -t "$root/away/#")
  [ "$version" = mqttv5 ] && session+=(-x 3600)
  sub "${session[@]}" -E || return 1
  seq -f 'v%g' 0 9 | pub -t "$root/away/a" -q 1 -l || return 1
  equal "$(sub "${session[@]}" -C 10)" "$(seq -f "1 0 $root/away/a v%g" 0 9)"
}

right_password() {
  pub -t "$root/secret" -q 1 -r -m told && equal "$(sub -q 1 -t "$root/secret" -C 1)" "1 1 $root/secret told"
}

wrong_password() { # what is to be said
  local said
  said=$(pub -t "$root/secret" -q 1 -m x -P 'not the password' 2>&1) && {
    echo "it was let in" >&2
    return 1
  }
  contains "$said" "$1"
}

first=$root
for version in mqttv311 mqttv5; do
  case $version in
  mqttv311) name=3.1.1 refusal="bad user name or password" ;;
  *) name=5.0 refusal="Bad User Name or Password" ;;
  esac
  root=$first-$version
  if [ "$list" = password ]; then
    step "$name right password" right_password
    step "$name wrong password" wrong_password "$refusal"
    continue
  fi
  step "$name QoS 0" qos 0
  step "$name QoS 1" qos 1
  step "$name QoS 2" qos 2
  step "$name retained" retained
  step "$name will" will
  step "$name kept while away" kept_while_away
done
