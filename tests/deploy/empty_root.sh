#!/usr/bin/env bash
# Runs the program as the image would: in a root that holds nothing but it, its configuration and the CA file, read-only,
# as nobody, without capabilities, as process 1. No shell, no libc, no /tmp. /etc/hosts and /etc/resolv.conf are there: every
# container runtime puts them in.
#   empty_root.sh BINARY
# A binary that is not static gets its libraries copied into the root, and a line says so: that one cannot be FROM scratch.
set -euo pipefail
binary=$(realpath "${1:?the binary to run}")
skip() { [ "${CI:-}" = true ] && { echo "FAIL $1, and CI must have it"; exit 1; }; echo "SKIP $1"; exit 0; }
command -v bwrap >/dev/null || skip "bubblewrap is not installed"
command -v curl >/dev/null || skip "curl is not installed"

scratch=$(mktemp -d); chmod 755 "$scratch"; child=""
trap '[ -z "$child" ] || kill -KILL "$child" 2>/dev/null || true; rm -rf "$scratch"' EXIT
root=$scratch/root; out=$scratch/out
mkdir -p "$root"/{etc/cupbearer,etc/ssl/certs,run/secrets,var/lib/cupbearer,proc,dev,out} "$out" "$scratch/state"
cp "$binary" "$root/cupbearer"; chmod 555 "$root/cupbearer"
[ -r /etc/ssl/certs/ca-certificates.crt ] && cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
printf '127.0.0.1 localhost\n' > "$root/etc/hosts"; printf 'nameserver 127.0.0.1\n' > "$root/etc/resolv.conf"
if readelf -l "$binary" | grep -q INTERP; then
  echo "not static: its libraries are copied, an image FROM scratch would not start it"
  { readelf -l "$binary" | sed -n 's/.*interpreter: \(.*\)]/\1/p'; ldd "$binary" | grep -o '/[^ ]*'; } | sort -u |
    while read -r lib; do mkdir -p "$root$(dirname "$lib")"; cp -L "$lib" "$root$lib"; done
fi
read -r port admin < <(python3 -c '
import socket
s = [socket.socket() for _ in range(2)]
[x.bind(("127.0.0.1", 0)) for x in s]
print(*[x.getsockname()[1] for x in s])')
cat > "$root/etc/cupbearer/config.toml" <<TOML
[proxy]
listen  = ["127.0.0.1:$port"]
workers = 1
drain   = "2s"
[admin]
listen = "127.0.0.1:$admin"
[state]
dir = "/var/lib/cupbearer/guard"
[credentials.key]
profile = "static"
inject  = { headers = { X-Key = "{{ secrets.key }}" } }
secrets = { dir = "/run/secrets" }
[upstreams.one]
url        = "http://127.0.0.1:9"
credential = "key"
TOML
printf 'k' > "$root/run/secrets/key"; chmod 444 "$root/run/secrets/key"

# Really nobody where we may choose; otherwise whoever we are, shown as nobody.
as=(); nobody=$(id -u)
if [ "$nobody" = 0 ]; then
  # The volume is root's and open to the group, as Kubernetes makes it.
  chown -R 65534:65534 "$out"; chgrp 65534 "$scratch/state"; chmod 2777 "$scratch/state"; nobody=65534
  as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
fi
jail=("${as[@]}" bwrap --unshare-user --uid 65534 --gid 65534 --unshare-pid --unshare-ipc --unshare-uts --as-pid-1
  --ro-bind "$root" / --proc /proc --dev /dev --bind "$scratch/state" /var/lib/cupbearer --bind "$out" /out
  --remount-ro / --clearenv --cap-drop ALL --new-session --die-with-parent)
"${jail[@]}" /cupbearer check --help >/dev/null 2>&1 || "${as[@]}" bwrap --unshare-user --ro-bind / / true 2>/dev/null ||
  skip "user namespaces are not allowed here"

passed=0; failed=0
check() { if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL empty root: $1"; fi; }
fails() { ! "$@" >/dev/null 2>&1; }
quietly() { "$@" >"$scratch/said" 2>&1 || { cat "$scratch/said"; return 1; }; }

check "there is no shell" fails "${jail[@]}" /bin/sh -c true
check "the configuration is found and right" quietly "${jail[@]}" /cupbearer check
code=0; timeout 10 "${jail[@]}" /cupbearer run --ready-file /etc/ready.json >/dev/null 2>&1 || code=$?
check "a file outside of the mounted folders cannot be written (124: it ran on; got $code)" test "$code" -ne 0 -a "$code" -ne 124

"${jail[@]}" --info-fd 3 /cupbearer run --ready-file /out/ready.json 3>"$scratch/info" 2>"$scratch/log" & jailer=$!
for _ in $(seq 100); do [ -s "$out/ready.json" ] && break; kill -0 $jailer 2>/dev/null || break; sleep 0.1; done
child=$(sed -n 's/.*"child-pid": \([0-9]*\).*/\1/p' "$scratch/info")
if check "it says that it is ready" test -s "$out/ready.json" && [ -s "$out/ready.json" ]; then
  check "it is alive" quietly curl -fsS -m 5 "http://127.0.0.1:$admin/livez"
  check "it has its first metrics" eval "curl -fsS -m 5 http://127.0.0.1:$admin/metrics | grep -q '^cupbearer_build_info'"
  check "the guard's folder was made, for its own eyes only" eval '[[ $(stat -c %a "$scratch/state/guard") = *700 ]]'
  check "the probe inside says so, too" quietly "${jail[@]}" /cupbearer probe live
  status=/proc/$child/status
  check "it is nobody ($nobody)" grep -qP "^Uid:\t$nobody\t$nobody\t$nobody\t$nobody" "$status"
  check "it has no capability" grep -qP '^CapEff:\t0+$' "$status"
  check "it can gain none" grep -qP '^NoNewPrivs:\t1' "$status"
  check "it is process 1" grep -qP '^NSpid:.*\t1$' "$status"
  begun=$(date +%s%N)
  kill -TERM "$child"
  code=0; wait $jailer || code=$?
  child=""
  check "SIGTERM ends process 1 with 0 (got $code)" test "$code" = 0
  check "and soon" test $((($(date +%s%N) - begun) / 1000000)) -lt 5000
else
  cat "$scratch/log"
fi
echo "empty root ($(stat -c %s "$binary") bytes): $passed passed, $failed failed"
[ "$failed" -eq 0 ]
