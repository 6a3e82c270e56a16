#!/usr/bin/env bash
# The last stage of deploy/Dockerfile, built for real around a given binary, and what is in the image then.
#   image.sh BINARY
# The first stage pulls a base and cannot be built without a registry; its one step is deploy/build-root.sh, and a folder laid out
# like that step's result stands in for the stage. Needs buildah.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
binary=$(realpath "${1:?the binary to put in}")
skip() { [ "${CI:-}" = true ] && { echo "FAIL $1, and CI must have it"; exit 1; }; echo "SKIP $1"; exit 0; }
command -v buildah >/dev/null || skip "buildah is not installed"

scratch=$(mktemp -d)
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
stores=(--root "$scratch/storage" --runroot "$scratch/run")
trap 'buildah "${stores[@]}" rm -a >/dev/null 2>&1 || true; rm -rf "$scratch"' EXIT
# The layout comes from the script itself, with the binary and without the build.
built=$scratch/target/$(uname -m)-unknown-linux-musl/debug
mkdir -p "$built" "$scratch/bin" "$scratch/empty"
cp "$binary" "$built/cupbearer"
# shellcheck disable=SC2016 # the stand-in expands it
printf '#!/bin/sh\n[ "$1" != --print ] || echo /none\n' | tee "$scratch/bin/cargo" "$scratch/bin/rustup" > "$scratch/bin/rustc"
chmod +x "$scratch/bin/"*
PATH=$scratch/bin:$PATH PROFILE=dev CARGO_TARGET_DIR=$scratch/target "$here/deploy/build-root.sh" "$scratch/build/out"

sed -n '/^FROM scratch/,$p' "$here/deploy/Dockerfile" > "$scratch/Containerfile"
buildah "${stores[@]}" bud --quiet --format docker --build-context build="$scratch/build" -f "$scratch/Containerfile" -t cupbearer:trial "$scratch/empty" >/dev/null
container=$(buildah "${stores[@]}" from cupbearer:trial)
root=$(buildah "${stores[@]}" mount "$container")

passed=0; failed=0
check() { if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL image: $1"; fi; }
files=$(cd "$root" && find . -type f -o -type l | sort | tr '\n' ' ')
check "it holds the binary and the CA file: $files" test "$files" = "./cupbearer ./etc/ssl/certs/ca-certificates.crt "
check "nothing in it runs as someone else" test -z "$(find "$root" -perm /6000)"
check "nothing in it can be written by its user, but the state folder" test "$(find "$root" -writable \( -user 65532 -o -group 65532 -o -perm -o=w \) -printf '%P ')" = "var/lib/cupbearer "
check "the state folder is its user's alone" test "$(stat -c %u:%g:%a "$root/var/lib/cupbearer")" = 65532:65532:700
check "the binary cannot be changed" test "$(stat -c %u:%a "$root/cupbearer")" = 0:555
config=$(buildah "${stores[@]}" inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}} {{.Docker.Config.Healthcheck.Test}}' cupbearer:trial)
check "it starts as 65532 with run, and is probed: $config" test "$config" = "65532:65532 [/cupbearer] [run] [CMD /cupbearer probe live]"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/Cargo.toml" | head -1)
label=$(buildah "${stores[@]}" inspect --type image --format '{{index .Docker.Config.Labels "org.opencontainers.image.version"}}' cupbearer:trial)
check "its label names the version ($label)" test "$label" = "$version"
echo "image: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
