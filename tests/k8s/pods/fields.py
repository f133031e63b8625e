"""Which fields of a pod are translated, which are known and cannot be exercised without a cluster, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Untranslatable(ValueError):
    """A field or value that podman was not told of: running the rest would be a test of something else."""


Fields = Mapping[str, frozenset[str]]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TRANSLATED: Fields = {
    "pod": _names(
        "containers initContainers volumes securityContext terminationGracePeriodSeconds hostname subdomain"
        " restartPolicy automountServiceAccountToken"
    ),
    "container": _names(
        "name image command args env envFrom volumeMounts resources securityContext lifecycle livenessProbe"
        " readinessProbe startupProbe"
    ),
    "pod security": _names("runAsUser runAsGroup runAsNonRoot fsGroup seccompProfile"),
    "container security": _names(
        "runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem allowPrivilegeEscalation capabilities privileged"
        " seccompProfile"
    ),
    "mount": _names("name mountPath subPath readOnly"),
    "volume": _names("name emptyDir secret configMap persistentVolumeClaim projected"),
    "probe": _names(
        "exec httpGet tcpSocket initialDelaySeconds periodSeconds timeoutSeconds failureThreshold successThreshold"
    ),
    "statefulset": _names(
        "serviceName replicas selector template volumeClaimTemplates updateStrategy podManagementPolicy"
    ),
    "deployment": _names("replicas selector template strategy"),
    "raycluster": _names(
        "rayVersion headGroupSpec workerGroupSpecs gcsFaultToleranceOptions authOptions enableInTreeAutoscaling"
    ),
    "ray group": _names("groupName replicas rayStartParams template resources numOfHosts"),
    "gcs": _names("backend storage externalStorageNamespace redisAddress redisUsername redisPassword"),
    "gcs storage": _names("claimName subPath"),
}

# What a cluster does with these, podman on one machine cannot show. k8s/README.md says so in words.
NOT_EXERCISED: Fields = {
    "pod": _names(
        "affinity topologySpreadConstraints nodeSelector tolerations priorityClassName serviceAccountName"
        " enableServiceLinks imagePullSecrets schedulerName runtimeClassName dnsPolicy"
    ),
    # The kubelet pulls; ports are documentation; requests are the scheduler's.
    "container": _names("imagePullPolicy ports terminationMessagePolicy"),
    "pod security": _names("fsGroupChangePolicy"),
    "container security": frozenset(),
    "mount": frozenset(),
    "volume": frozenset(),
    "probe": _names("terminationGracePeriodSeconds"),
    "statefulset": _names("persistentVolumeClaimRetentionPolicy revisionHistoryLimit minReadySeconds ordinals"),
    "deployment": _names("revisionHistoryLimit progressDeadlineSeconds minReadySeconds"),
    "raycluster": _names("autoscalerOptions upgradeStrategy"),
    "ray group": _names("minReplicas maxReplicas scaleStrategy serviceType headService idleTimeoutSeconds"),
    "gcs": frozenset(),
    "gcs storage": _names("storageClassName size accessModes deletionPolicy"),
}


def check(kind: str, given: Mapping[str, Any], where: str) -> list[str]:
    """The fields of `given` that are known and not exercised, as `where.field`.

    Raises Untranslatable for a field that neither table names.
    """
    known, left_out = TRANSLATED[kind], NOT_EXERCISED[kind]
    for name in given:
        if name not in known and name not in left_out:
            raise Untranslatable(f"{where}.{name}: no translation of this field of a {kind}; known: {sorted(known)}")
    return [f"{where}.{name}" for name in given if name in left_out]
