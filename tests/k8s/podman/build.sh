#!/usr/bin/env bash
# build.sh [IMAGE [VARIANT]]: builds the image (localhost/facegrid:dev, cpu) on a machine without a registry, by `make image` on the bases
# of base.sh. What this machine needs to reach packages (its CA certificates, pip's index, cargo's configuration) is mounted while it
# builds, and is not in the image. Builds again only what changed.
set -euo pipefail

root=$(cd "$(dirname "$0")/../../.." && pwd)
export CONTAINERS_CONF=$root/tests/k8s/podman/containers.conf
bases=$("$root/tests/k8s/podman/base.sh")
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT

certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
flags="$bases --network=host"
mount() {
    flags="$flags --volume=$1:$2:ro"
}

if [ -e "$certificates" ]; then
    cp "$certificates" "$here/ca.crt"
    mount "$here/ca.crt" /run/ca.crt
    printf '[http]\ncainfo = "/run/ca.crt"\n' >"$here/cargo.toml"
    # Beside the configuration in cargo's home, which is of the machine below.
    mount "$here/cargo.toml" /.cargo/config.toml
fi
{
    echo "[global]"
    echo "timeout = 120"
    if [ -e "$certificates" ]; then echo "cert = /run/ca.crt"; fi
    python3 -m pip config list | sed -nE "s/^.*\.(index-url|extra-index-url|trusted-host)='(.*)'$/\1 = \2/p" | sort -u -k1,1
} >"$here/pip.conf"
mount "$here/pip.conf" /etc/pip.conf
for config in "${CARGO_HOME:-$HOME/.cargo}"/config.toml "${CARGO_HOME:-$HOME/.cargo}"/config; do
    if [ -e "$config" ]; then
        mount "$config" /usr/local/cargo/config.toml
        break
    fi
done
make -C "$root" --no-print-directory image ENGINE=podman IMAGE="${1:-localhost/facegrid:dev}" VARIANT="${2:-cpu}" IMAGE_FLAGS="$flags"
