#!/usr/bin/env bash
# build.sh DIRECTORY: programs of a Kubernetes cluster, from their sources through Go's module proxy, and images of those that run in
# pods. Builds what is not there yet; the first time takes a quarter of an hour of two cores.
#
#   KUBERAY_SOURCE        folder with KubeRay's ray-operator of this version, where the proxy has it not
#   KUBE_ROUTER_SOURCE    the same of kube-router
set -euo pipefail

KUBERNETES=1.33.4
COREDNS=1.12.4
KUBERAY=1.7.0
KUBE_ROUTER=2.8.1

into=$(mkdir -p "$1" && cd "$1" && pwd)
export GOFLAGS=-mod=mod CGO_ENABLED=0
for program in go podman; do
    command -v "$program" >/dev/null || {
        echo "build.sh: expected $program on PATH, found none" >&2
        exit 1
    }
done

# module NAME FOLDER: an empty module to build others' programs in.
module() {
    mkdir -p "$into/$1"
    printf 'module example.org/%s\n\ngo 1.24.0\n' "$1" >"$into/$1/go.mod"
    cd "$into/$1"
}

# Kubernetes' own go.mod names its parts by folders that are not in its module: they are modules of the same release.
kubernetes() {
    module kubernetes
    go mod download "k8s.io/kubernetes@v$KUBERNETES"
    {
        printf 'require k8s.io/kubernetes v%s\n\nreplace (\n' "$KUBERNETES"
        sed -nE "s#^\s*(k8s\.io/[a-z-]+) => \./staging.*#\t\1 => \1 v0.${KUBERNETES#1.}#p" \
            "$(go env GOMODCACHE)/k8s.io/kubernetes@v$KUBERNETES/go.mod"
        echo ')'
    } >>go.mod
    local version=k8s.io/component-base/version programs=()
    for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
        programs+=("k8s.io/kubernetes/cmd/$program")
    done
    CGO_ENABLED=1 go build -o "$into/bin/" \
        -ldflags "-X $version.gitVersion=v$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=${KUBERNETES:2:2}" "${programs[@]}"
}

# from_module NAME MODULE@VERSION PACKAGE
from_module() {
    module "$1"
    go get "$2"
    go build -o "$into/bin/$1" "$3"
}

# from_folder NAME FOLDER PACKAGE
from_folder() {
    cd "$2"
    go build -o "$into/bin/$1" "$3"
}

pause() {
    module pause
    cp "$here/pause.go" main.go
    go build -o "$into/bin/pause" .
}

# image PROGRAM NAME PATH: an image of the program alone, in a file that containerd imports.
image() {
    local context
    context=$(mktemp -d)
    cp "$into/bin/$1" "$context/program"
    printf 'FROM scratch\nCOPY --chmod=755 program %s\nENTRYPOINT ["%s"]\n' "$3" "$3" >"$context/Dockerfile"
    podman build -q -t "$2" "$context" >/dev/null
    podman save -q -o "$into/images/$1.tar" "$2"
    rm -r "$context"
}

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$into/bin" "$into/images"
[ -x "$into/bin/kube-proxy" ] || kubernetes
[ -x "$into/bin/pause" ] || pause
[ -x "$into/bin/coredns" ] || from_module coredns "github.com/coredns/coredns@v$COREDNS" github.com/coredns/coredns
if [ ! -x "$into/bin/kube-router" ]; then
    if [ -n "${KUBE_ROUTER_SOURCE:-}" ]; then
        from_folder kube-router "$KUBE_ROUTER_SOURCE" ./cmd/kube-router
    else
        from_module kube-router "github.com/cloudnativelabs/kube-router/v2@v$KUBE_ROUTER" \
            github.com/cloudnativelabs/kube-router/v2/cmd/kube-router
    fi
fi
if [ ! -x "$into/bin/kuberay-operator" ]; then
    if [ -n "${KUBERAY_SOURCE:-}" ]; then
        from_folder kuberay-operator "$KUBERAY_SOURCE" .
    else
        from_module kuberay-operator "github.com/ray-project/kuberay/ray-operator@v$KUBERAY" \
            github.com/ray-project/kuberay/ray-operator
    fi
fi
[ -e "$into/images/pause.tar" ] || image pause localhost/pause:1 /pause
[ -e "$into/images/coredns.tar" ] || image coredns localhost/coredns:1 /coredns
[ -e "$into/images/kuberay-operator.tar" ] || image kuberay-operator "localhost/kuberay-operator:v$KUBERAY" /manager
