#!/usr/bin/env bash
# Makes the base images of k8s/image/Dockerfile out of what this machine has, where no registry can be reached: Debian by debootstrap from
# the mirror that apt uses here, and on top of it this machine's Rust toolchain at the places of the official image. They get the names
# (without digests) that the Dockerfile has for the real ones. What is there already is kept. Needs root, podman, debootstrap and Rust.
#
# Prints the build arguments that name them.
set -euo pipefail

root=$(cd "$(dirname "$0")/../../.." && pwd)
export CONTAINERS_CONF=$root/tests/k8s/podman/containers.conf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# base_name ARGUMENT: the image that the Dockerfile names by default, without its digest.
base_name() {
    sed -n "s/^ARG $1=\([^@]*\).*/\1/p" "$root/k8s/image/Dockerfile"
}

# Lines "uri release component" of Debian's archives in apt's configuration.
archives() {
    # shellcheck disable=SC2016  # $(…) is apt's own
    apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' | sort -u
}

make_debian() {
    local name=$1 mirror
    mirror=$(archives | awk '$2 == "bookworm" && $3 == "main" {print $1; exit}')
    [ -n "$mirror" ] || { echo "base.sh: expected an archive of Debian bookworm in apt's configuration, found none" >&2; exit 1; }
    debootstrap --variant=minbase bookworm "$work/debian" "$mirror" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
    archives | sed 's/^/deb /' >"$work/debian/etc/apt/sources.list"
    rm -rf "$work"/debian/var/cache/apt/archives/*.deb "$work"/debian/var/lib/apt/lists/* "$work"/debian/usr/share/{doc,man,locale}
    tar -C "$work/debian" -c . | podman import --quiet --change 'CMD ["bash"]' - "$name"
}

make_rust() {
    local name=$1 debian=$2 version wanted
    version=$(rustc --version | cut -d' ' -f2)
    wanted=${name##*rust:}
    wanted=${wanted%%-*}
    [ "$version" = "$wanted" ] || echo "base.sh: $name is made with Rust $version of this machine" >&2
    mkdir "$work/toolchain"
    # The parts that compile; not the manuals.
    tar -C "$(rustc --print sysroot)" -c --exclude=share bin lib libexec | tar -C "$work/toolchain" -x
    cat >"$work/Containerfile" <<END
FROM $debian
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY toolchain /usr/local/rustup/toolchains/$version
RUN mkdir -p /usr/local/cargo && ln -s /usr/local/rustup/toolchains/$version/bin /usr/local/cargo/bin
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
END
    podman build --quiet --layers=false --network=host --tag "$name" --file "$work/Containerfile" "$work"
}

# One at a time, as several tests may ask for them at once.
exec 9>"${TMPDIR:-/tmp}/facegrid-base-images.lock"
flock 9
debian=$(base_name DEBIAN_IMAGE)
rust=$(base_name RUST_IMAGE)
podman image exists "$debian" || make_debian "$debian" >&2
podman image exists "$rust" || make_rust "$rust" "$debian" >&2
echo "--build-arg=DEBIAN_IMAGE=$debian --build-arg=RUST_IMAGE=$rust"
