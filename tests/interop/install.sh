# shellcheck shell=bash disable=SC2154
# Installs the clients, in the versions that requirements.txt, package.json, go.mod, pom.xml and
# Cargo.lock name; mosquitto and kcat in Debian's. Sourced by `run`.

# Go's own, as a module, for where Debian's is older than what franz-go takes.
go_version=1.26.0

debian() { # packages
  [ $# -eq 0 ] && return
  echo "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"; } \
    </dev/null >"$tools/apt.log" 2>&1; then
    cat "$tools/apt.log"
    echo "cannot install $*"
    exit 1
  fi
}

missing() { # command=package ...
  local pair
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || echo "${pair#*=}"
  done
  # Debian's python3 can be there without its venv.
  python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

from_pypi() {
  { [ -x "$tools/venv/bin/python" ] || python3 -m venv "$tools/venv"; } &&
    "$tools/venv/bin/pip" -q install -r "$here/requirements.txt"
}

from_npm() {
  cp "$here/package.json" "$tools/" &&
    npm --prefix "$tools" install --no-fund --no-audit --silent
}

from_maven() {
  mvn -q -B -f "$here/java/pom.xml" dependency:copy-dependencies -DoutputDirectory="$tools/java"
}

# Go from 1.21 on fetches the version that go.mod asks for by itself. An older one can fetch it
# as a module, which comes without the right to execute it.
from_go() (
  go=go
  minor=$(go version | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p')
  if [ "${minor:-0}" -lt 21 ]; then
    folder=$(go mod download -json "golang.org/toolchain@v0.0.1-go$go_version.linux-$(dpkg --print-architecture)" |
      sed -n 's/.*"Dir": "\(.*\)".*/\1/p') && [ -n "$folder" ] || return 1
    chmod -R u+w "$folder" && chmod -R +x "$folder/bin" "$folder/pkg/tool" || return 1
    go=$folder/bin/go
    unset GOROOT # the old one's, if any
  fi
  cd "$here/franz-go" && "$go" build -o "$tools/franz-go" .
)

# As an example of the workspace: `cargo test --workspace` has built it already.
from_cargo() {
  (cd "$root" && cargo build --locked --workspace --example interop_rumqttc)
}

install_clients() {
  local packages source
  mapfile -t packages < <(missing mosquitto_pub=mosquitto-clients kcat=kcat python3=python3 \
    node=nodejs npm=npm java=default-jdk-headless mvn=maven go=golang-go)
  debian "${packages[@]}"
  for source in pypi npm maven go cargo; do
    if ! "from_$source" </dev/null >"$tools/install.log" 2>&1; then
      cat "$tools/install.log"
      echo "cannot install the clients from $source"
      exit 1
    fi
  done
  export python=$tools/venv/bin/python jars=$tools/java
}
