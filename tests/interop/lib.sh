# shellcheck shell=bash disable=SC2154
# What the shell scripts share. Steps are told in lines: VERSION, PASS and FAIL.

# Runs a step; on failure the reason is the last thing it said. Several may run beside each other.
step() { # name function arguments
  local name=$1 errors
  errors=$(mktemp "$scratch/said.XXXXXX")
  shift
  if "$@" 2>"$errors"; then
    echo "PASS $name"
  else
    cat "$errors" >&2
    echo "FAIL $name: $(tail -1 "$errors")"
  fi
}

equal() { # got due
  [ "$1" = "$2" ] && return
  echo "got $(printf %q "$1"), due $(printf %q "$2")" >&2
  return 1
}

contains() { # text part
  [[ $1 == *"$2"* ]] && return
  echo "$(printf %q "$2") is not in $(printf %q "$1")" >&2
  return 1
}

until_contains() { # file part
  local _
  for _ in $(seq 200); do
    grep -qF -- "$2" "$1" 2>/dev/null && return
    sleep 0.1
  done
  echo "$(printf %q "$2") did not come: $(printf %q "$(cat "$1")")" >&2
  return 1
}
