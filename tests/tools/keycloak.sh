#!/bin/bash
# keycloak.sh FOLDER [REALM.json] -- starts the Keycloak in FOLDER in dev mode on a free port of loopback, with a fresh
# database, and imports the realm (by default the one beside this script). Prints `ready http://127.0.0.1:PORT/auth` when
# the realm `vendor` answers; ends, and leaves nothing, when its standard input closes.
# What it says stays in target/tools/keycloak.log. Administrator of the master realm: `admin`, password `made-up-admin`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=$(cd "$1" && pwd)
realm=${2:-$here/keycloak-realm.json}

data=$(mktemp -d)
log=$here/../../target/tools/keycloak.log
port=$("$here/../../target/tools/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# The server writes into its own folder, at its first start even what it runs: each run has a copy.
cp -r "$home" "$data/keycloak"
mkdir -p "$data/keycloak/data/import"
cp "$realm" "$data/keycloak/data/import/vendor-realm.json"

server=
end() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
    rm -rf "$data"
}
trap end EXIT
trap 'exit 0' TERM INT

export KC_BOOTSTRAP_ADMIN_USERNAME=admin KC_BOOTSTRAP_ADMIN_PASSWORD=made-up-admin
export JAVA_OPTS_KC_HEAP="-Xms128m -Xmx512m"
# Should this script be killed, the server goes with it.
setpriv --pdeathsig TERM "$data/keycloak/bin/kc.sh" start-dev --import-realm --http-host 127.0.0.1 --http-port "$port" --http-relative-path /auth \
    --cache local --log-level warn >"$log" 2>&1 </dev/null &
server=$!

base=http://127.0.0.1:$port/auth
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && curl -sf -o /dev/null --max-time 5 "$base/realms/vendor"; }
for _ in $(seq 1 360); do
    answers && break
    kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.5
done
answers || { cat "$log" >&2; exit 1; }
echo "ready $base"
cat >/dev/null
