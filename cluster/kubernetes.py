"""Jobs of a release on Kubernetes, as objects of KubeRay: values in, objects out. Nothing here asks a cluster.

A job's driver is submitted to the running RayCluster of the release by KubeRay's operator itself (HTTPMode), which asks
that cluster for the job's state in every mode. So there is no pod of a submitter: nothing else that needs the token, a
way through the network policies, or two shells' worth of quoting. What the operator refuses with a clusterSelector, or
does not do with one (retries, a time to live), is not in the object either.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cluster.cron import check_cron
from coordinator.actor_names import CONTROL_RESOURCE
from shard.errors import InvalidParameter

LONGEST_NAME = 47
"""Characters of a RayJob's name, by KubeRay's rule."""
LONGEST_SCHEDULED_NAME = LONGEST_NAME - 11
"""Of a RayCronJob's: KubeRay appends the minute to it."""
LONGEST_RELEASE = 36
"""Characters of the name that the chart gives to all of a release."""
CONTROL_SHARE = 0.001
"""Of the control node's resource: a driver takes a little of it, to be placed where the home's directory is."""
LONGEST_COMMAND = 100_000
"""Characters of a driver's command: Linux takes 131,072 of one argument, of which the shell's is one."""
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Release:
    """A release of the chart, in a namespace. fullname: what its objects' names begin with, if the chart was told."""

    name: str
    namespace: str
    fullname: str | None = None

    def __post_init__(self) -> None:
        _check("namespace", self.namespace, _NAMESPACE, 63)
        _check("release", self.name, _NAMESPACE, 53)
        _check("fullname", self.cluster, _DNS_1035, LONGEST_RELEASE)

    @property
    def cluster(self) -> str:
        """Name of its RayCluster: the chart's rule."""
        if self.fullname is not None:
            return self.fullname
        return self.name if "facegrid" in self.name else f"{self.name}-facegrid"

    @property
    def address(self) -> str:
        """host:port of its Ray cluster, inside the namespace."""
        return f"{self.cluster}-head-svc:6379"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a job runs again and again: cron's five fields, and a time zone; the operator's own if None."""

    cron: str
    time_zone: str | None = None


def submission(release: Release, kind: str, gallery: str, parameters: dict[str, Any]) -> list[str]:
    """The command that runs a new job, on the node that has the home."""
    return [*_driver(release), "submit", kind, gallery, json.dumps(parameters, sort_keys=True)]


def resumption(release: Release, job_id: str) -> list[str]:
    """The command that goes on with a job."""
    return [*_driver(release), "resume", job_id]


def _driver(release: Release) -> list[str]:
    return ["python", "-m", "cluster.jobs", "--address", release.address]


def ray_job(release: Release, name: str, command: list[str], about: dict[str, str]) -> dict[str, Any]:
    """The RayJob that runs a command once. about: what `ray job list` shows of it. InvalidParameter for a bad name."""
    _check("name", name, _DNS_1035, LONGEST_NAME)
    return _object(release, "RayJob", name, _job_spec(release, command, about))


def ray_cron_job(
    release: Release, name: str, command: list[str], about: dict[str, str], schedule: Schedule
) -> dict[str, Any]:
    """The RayCronJob that runs a command by a schedule. InvalidParameter for a bad name or schedule."""
    _check("name", name, _DNS_1035, LONGEST_SCHEDULED_NAME)
    check_cron(schedule.cron)
    zone = {} if schedule.time_zone is None else {"timeZone": schedule.time_zone}
    spec = {"schedule": schedule.cron, **zone, "jobTemplate": _job_spec(release, command, about)}
    return _object(release, "RayCronJob", name, spec)


def job_name(release: Release, kind: str, at: datetime, digits: str) -> str:
    """A name for a RayJob that no other one has. at: in UTC. digits: a few at random."""
    last = f"-{kind}-{at:%Y%m%d-%H%M%S}-{digits}"
    return release.cluster[: LONGEST_NAME - len(last)].rstrip("-") + last


def scheduled_name(release: Release, kind: str, gallery: str) -> str:
    """A name for a RayCronJob: the same each time for a gallery, so that applying another one changes it.

    The digits are of what does not fit: the gallery, and the whole name of the release.
    """
    digits = hashlib.sha256(f"{release.cluster} {gallery}".encode()).hexdigest()[:8]
    last = f"-{kind}-{digits}"
    return release.cluster[: LONGEST_SCHEDULED_NAME - len(last)].rstrip("-") + last


def _job_spec(release: Release, command: list[str], about: dict[str, str]) -> dict[str, Any]:
    # In HTTPMode one shell reads it, in the control pod.
    entrypoint = shlex.join(command)
    if len(entrypoint) > LONGEST_COMMAND:
        raise InvalidParameter(
            f"parameters: expected a command of at most {LONGEST_COMMAND:,} characters, got {len(entrypoint):,}"
        )
    return {
        "clusterSelector": {"ray.io/cluster": release.cluster},
        "submissionMode": "HTTPMode",
        "entrypoint": entrypoint,
        "entrypointResources": json.dumps({CONTROL_RESOURCE: CONTROL_SHARE}),
        "metadata": about,
        # Not 0 is refused with a clusterSelector. A job that failed goes on with `render-job resume`.
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": False,
    }


def _object(release: Release, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "ray.io/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": release.namespace,
            "labels": {
                "app.kubernetes.io/part-of": "facegrid",
                "app.kubernetes.io/instance": release.name,
                "app.kubernetes.io/component": "job",
            },
        },
        "spec": spec,
    }


def _check(what: str, text: str, pattern: re.Pattern[str], longest: int) -> None:
    if len(text) > longest or not pattern.fullmatch(text):
        raise InvalidParameter(
            f"{what}: expected lower-case letters, digits and '-', at most {longest}, got {text!r:.100}"
        )
