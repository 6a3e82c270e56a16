#!/usr/bin/env bash
# deploy/systemd/cupbearer.service: loads without a word, exposes little, and never restarts on a wrong configuration.
#   systemd.sh [BINARY]      BINARY stands in for /usr/bin/cupbearer while the unit is verified (default: some program)
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
unit=$here/deploy/systemd/cupbearer.service
limit=2.0
if ! command -v systemd-analyze >/dev/null; then
  [ "${CI:-}" = true ] && { echo "FAIL systemd-analyze is not installed, and CI must have it"; exit 1; }
  echo "SKIP systemd-analyze is not installed"; exit 0
fi
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
passed=0; failed=0
check() { if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL systemd: $1"; fi; }

binary=$(realpath "${1:-$(type -P true)}")
sed "s#/usr/bin/cupbearer#$binary#" "$unit" > "$scratch/cupbearer.service"
# A word about another unit of this machine is not about ours.
about() { systemd-analyze verify "$1" 2>&1 | grep -F "$(basename "$1")" || true; }
said=$(about "$scratch/cupbearer.service")
check "systemd-analyze verify has nothing to say: $said" test -z "$said"
sed 's/^ProtectHome=/ProtectHouse=/' "$scratch/cupbearer.service" > "$scratch/wrong.service"
check "systemd-analyze verify notices a key that does not exist" test -n "$(about "$scratch/wrong.service")"

exposure() { systemd-analyze security --offline=true "$1" 2>&1 | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p'; }
below() { awk -v a="$1" -v b="$limit" 'BEGIN { exit !(a != "" && a + 0 < b + 0) }'; }
found=$(exposure "$scratch/cupbearer.service")
check "exposure $found is below $limit" below "$found"
grep -vE '^(Protect|Private|Restrict|SystemCall|Capability|DynamicUser)' "$scratch/cupbearer.service" > "$scratch/bare.service"
bare=$(exposure "$scratch/bare.service")
check "without hardening it is not ($bare)" eval "! below '$bare'"

has() { grep -qxE "$1" "$unit"; }
check "a wrong configuration is not restarted" has 'RestartPreventExitStatus=78'
check "and no ExecStartPre can fail in its place" eval '! has "ExecStartPre=.*"'
check "it tells when it is ready" has 'Type=notify'
check "secrets come as credentials" has 'LoadCredential=.*'
check "no core dump holds a token" has 'LimitCORE=0'
# What the unit grants must be what the configuration beside it names.
# shellcheck disable=SC2013 # names have no blanks
for name in $(sed -n 's#.*/run/credentials/cupbearer.service/\([a-z_]*\).*#\1#p' "$here/deploy/systemd/config.toml"); do
  check "credential $name is loaded" has "LoadCredential=$name:.*"
done
check "the admin socket is in the folder that the unit makes for it" grep -q '^listen = "unix:/run/cupbearer/admin.sock"' "$here/deploy/systemd/config.toml"
check "and that folder is nobody else's" eval "has 'RuntimeDirectory=cupbearer' && has 'RuntimeDirectoryMode=0700'"
check "the state folder is the one of the configuration" grep -q '"/var/lib/cupbearer"' "$here/deploy/systemd/config.toml"
drain=$(sed -n 's/^drain *= *"\([0-9]*\)s".*/\1/p' "$here/deploy/systemd/config.toml")
stop=$(sed -n 's/^TimeoutStopSec=\([0-9]*\)s/\1/p' "$unit")
check "systemd waits longer ($stop s) than the drain ($drain s)" test "$stop" -gt "$drain"
echo "systemd: exposure $found; $passed passed, $failed failed"
[ "$failed" -eq 0 ]
