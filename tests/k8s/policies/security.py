"""No pod may do more than it has to: the Pod Security Standard "restricted", a read-only root and no token besides.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Iterator

from tests.k8s.workloads import Manifest, pods

# Owners' containers that may see a token of Kubernetes' API, and why.
TOKENS = {"autoscaler": "Ray's autoscaler changes the replicas of its RayCluster"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
API_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def nobody_is_root(manifests: list[Manifest]) -> Iterator[str]:
    """Each container says runAsNonRoot and a user that is not 0, itself or by its pod."""
    for pod in pods(manifests):
        of_pod = pod.spec.get("securityContext") or {}
        for where, one, _ in pod.containers():
            said = {**of_pod, **(one.get("securityContext") or {})}
            if said.get("runAsNonRoot") is not True:
                yield f"{where} does not say runAsNonRoot"
            for key in ("runAsUser", "runAsGroup"):
                if not said.get(key):
                    yield f"{where} has {key} {said.get(key)}"


def containers_are_confined(manifests: list[Manifest]) -> Iterator[str]:
    """No privileges, none to be had, no capability, seccomp on, nothing to write to but volumes."""
    for pod in pods(manifests):
        of_pod = pod.spec.get("securityContext") or {}
        for where, one, _ in pod.containers():
            said = one.get("securityContext") or {}
            if said.get("privileged"):
                yield f"{where} is privileged"
            if said.get("allowPrivilegeEscalation") is not False:
                yield f"{where} may escalate its privileges"
            capabilities = said.get("capabilities") or {}
            if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
                yield f"{where} keeps capabilities: {capabilities}"
            if said.get("readOnlyRootFilesystem") is not True:
                yield f"{where} has a root file system that can be written to"
            seccomp = (said.get("seccompProfile") or of_pod.get("seccompProfile") or {}).get("type")
            if seccomp not in ("RuntimeDefault", "Localhost"):
                yield f"{where} has the seccomp profile {seccomp}"


def hosts_are_apart(manifests: list[Manifest]) -> Iterator[str]:
    """No namespace, path or port of the machine below."""
    for pod in pods(manifests):
        for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if pod.spec.get(key):
                yield f"{pod.owner} has {key}"
        for volume in pod.spec.get("volumes") or []:
            kinds = set(volume) - {"name"}
            if not kinds <= VOLUMES:
                yield f"{pod.owner}: volume {volume['name']} is {sorted(kinds)}"
        for where, one, _ in pod.containers():
            yield from (f"{where} has a hostPort" for port in one.get("ports", []) if "hostPort" in port)


def tokens_are_for_few(manifests: list[Manifest]) -> Iterator[str]:
    """No token of Kubernetes' API comes into a container by itself; a mounted one is for those of TOKENS."""
    for pod in pods(manifests):
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.owner} does not say automountServiceAccountToken: false"
        token_volumes = {
            volume["name"]
            for volume in pod.spec.get("volumes") or []
            for source in (volume.get("projected") or {}).get("sources", [])
            if "serviceAccountToken" in source
        }
        for where, one, _ in pod.containers():
            mounted = {mount["name"] for mount in one.get("volumeMounts") or []}
            if mounted & token_volumes and one["name"] not in TOKENS:
                yield f"{where} has a token of Kubernetes' API"


def accounts_have_no_rights(manifests: list[Manifest]) -> Iterator[str]:
    """No role, no binding; accounts that mount nothing, and no pod with the namespace's default one."""
    for one in manifests:
        if one["kind"] in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            yield f"{one['kind']}/{one['metadata']['name']} gives rights"
        if one["kind"] == "ServiceAccount" and one.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount/{one['metadata']['name']} does not say automountServiceAccountToken: false"
    for pod in pods(manifests):
        if pod.spec.get("serviceAccountName", "default") == "default":
            yield f"{pod.owner} runs with the default account"


CHECKS = [nobody_is_root, containers_are_confined, hosts_are_apart, tokens_are_for_few, accounts_have_no_rights]
