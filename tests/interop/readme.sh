#!/bin/bash
# The four commands of the README, with a kill -9 between. Sourced by `run`, whose broker,
# ports and scratch folder it uses.
# shellcheck shell=bash disable=SC2154

readme_subscribe() {
  mosquitto_sub -h 127.0.0.1 -p "$mqtt_port" -t 'sensors/#' -q 1 >"$scratch/sub" 2>&1 &
  readme_sub=$!
  # It says nothing when it is subscribed; a retained message of its own does.
  mosquitto_pub -h 127.0.0.1 -p "$mqtt_port" -t sensors/first -q 1 -r -m first &&
    until_contains "$scratch/sub" first
}

# A new group starts at the end with kcat, so it is there before the message is.
readme_group() {
  # (-u: into a file it would keep its output to itself until it ends.)
  kcat -u -b "$kafka" -G backend mqtt -f '%k %s %h\n' >"$scratch/group" 2>"$scratch/group.err" &
  readme_kcat=$!
  local partition
  for partition in 0 1 2 3; do
    until_contains "$scratch/group.err" "Reached end of topic mqtt [$partition]" || return 1
  done
}

readme_publish() {
  mosquitto_pub -h 127.0.0.1 -p "$mqtt_port" -t sensors/kitchen/temp -q 1 -m 21.5
}

readme_subscriber_has_it() {
  until_contains "$scratch/sub" 21.5
}

readme_group_has_it() {
  until_contains "$scratch/group" "sensors/kitchen/temp 21.5 " &&
    until_contains "$scratch/group" "mqtt.topic=sensors/kitchen/temp" &&
    until_contains "$scratch/group" "mqtt.qos=1"
}

readme_leaves() {
  # kcat commits what it printed, and leaves the group.
  kill -INT "$readme_kcat" && wait "$readme_kcat"
  kill "$readme_sub"
  equal "$(grep -c . "$scratch/group")" 1
}

readme_kill() {
  mosquitto_pub -h 127.0.0.1 -p "$mqtt_port" -t sensors/kitchen/temp -q 1 -m 22.0 &&
    kill_broker && start_broker
}

readme_new_group() {
  local read
  read=$(timeout 30 kcat -q -b "$kafka" -G fresh -X auto.offset.reset=earliest -c 3 \
    -f '%k %s\n' mqtt | sort)
  equal "$read" $'sensors/first first\nsensors/kitchen/temp 21.5\nsensors/kitchen/temp 22.0'
}

readme_resume() {
  # As in the README: no option says where to start, the commit does.
  equal "$(timeout 30 kcat -q -b "$kafka" -G backend -c 1 -f '%k %s\n' mqtt)" \
    "sensors/kitchen/temp 22.0"
}

readme() {
  local mosquitto_version kcat_version
  mosquitto_version=$(mosquitto_pub --version 2>&1 | sed -n 's/.*version \([0-9.]*\).*/\1/p')
  kcat_version=$(kcat -V | sed -n 's/^Version \([0-9.]*\).*/\1/p')
  echo "VERSION mosquitto $mosquitto_version, kcat $kcat_version"
  step "mosquitto_sub -t 'sensors/#' -q 1" readme_subscribe
  step "kcat -G backend mqtt" readme_group
  step "mosquitto_pub -t sensors/kitchen/temp -q 1 -m 21.5" readme_publish
  step "mosquitto_sub prints 21.5" readme_subscriber_has_it
  step "kcat prints 21.5, key, headers" readme_group_has_it
  step "both leave" readme_leaves
  step "22.0, kill -9, restart" readme_kill
  step "a new group reads all" readme_new_group
  step "backend goes on behind 21.5" readme_resume
}
