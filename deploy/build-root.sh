#!/bin/sh
# Builds the static binary and lays out the root of the image: the build step of deploy/Dockerfile, as a command for any Linux machine.
#   deploy/build-root.sh OUT         needs rustup, a C compiler, cmake, make, musl-tools and ca-certificates
# OUT/root is the root; OUT/state/cupbearer is the folder that belongs to the image's user.
# PROFILE=dev builds faster and larger, to try it. The same sources, lock file, compiler and C compiler give the same bytes, wherever
# the sources lie: paths are mapped away, nothing is dated, nothing is incremental.
set -eu
out=${1:?where to put the root}
profile=${PROFILE:-release}
cd "$(dirname "$0")/.."
target=$(uname -m)-unknown-linux-musl
home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
export CARGO_INCREMENTAL=0
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
# The last rule that fits wins: the target folder lies within the sources.
export RUSTFLAGS="--remap-path-prefix=$sysroot=/rust --remap-path-prefix=$home=/cargo --remap-path-prefix=$PWD=/src --remap-path-prefix=$CARGO_TARGET_DIR=/target"
export CFLAGS="-ffile-prefix-map=$home=/cargo -ffile-prefix-map=$PWD=/src -ffile-prefix-map=$CARGO_TARGET_DIR=/target -g0"
rustup target add "$target"
cargo build --locked --profile "$profile" --target "$target" --bin cupbearer
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac
built=$CARGO_TARGET_DIR/$target/$folder/cupbearer
# Static, or an image FROM scratch could not start it.
if readelf -l "$built" | grep -q INTERP; then
  echo "build-root: $built is not static" >&2
  exit 1
fi
root=$out/root
mkdir -p "$root/etc/cupbearer" "$root/etc/ssl/certs" "$root/var/lib" "$out/state/cupbearer"
chmod 700 "$out/state/cupbearer"
cp "$built" "$root/cupbearer"
chmod 555 "$root/cupbearer"
# The roots that vendors' certificates are checked against; SSL_CERT_FILE or a volume in this place replaces them.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
find "$out" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
