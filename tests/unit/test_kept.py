"""What was once handed to an actor that Ray starts again can be taken by the code of now."""

from __future__ import annotations

import copyreg
import inspect
import pickle
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from cluster.service.embedders import EmbedderProcess, EmbedderState
from cluster.service.process import GatewayOptions, GatewayProcess, GatewayState
from cluster.service.serve import Listen
from coordinator.actors import ActorName
from coordinator.attachment import Attachment
from coordinator.coordinator_process import CoordinatorProcess
from coordinator.dataplane.tls import TlsFiles
from coordinator.host_process import ShardHostProcess
from coordinator.kept import fingerprint, kept, revision_of
from coordinator.key_service import KeySource
from coordinator.replication import ReplicationPolicy

# Parameters of version 0.1.0, without and with defaults. Never change a line here: add new parameters to the code only.
ARGUMENTS = {
    ShardHostProcess: (
        ("name", "directory", "secret", "bind", "kernel", "open_shards"),
        ("data_port", "probe_port", "tls", "mark"),
    ),
    CoordinatorProcess: (
        ("catalog", "hosts", "secret"),
        ("erasure_s", "policy", "audit_s", "key_source", "home", "tls", "mark"),
    ),
    GatewayProcess: (("settings", "attachment", "options"), ()),
    EmbedderProcess: (("settings", "device"), ("revision",)),
}
# Fields of version 0.1.0 of what these arguments consist of, likewise.
FIELDS = {
    ActorName: ("title", "session", "namespace"),
    EmbedderState: ("pid", "node_id", "version", "revision", "images"),
    GatewayState: ("pid", "node_id", "version", "revision", "url", "error", "is_ready", "is_leaving", "photos"),
    Attachment: ("home", "coordinator", "hosts", "secret", "tls"),
    GatewayOptions: ("listen", "gateways", "snapshot_store", "json_logs", "has_embedders", "revision"),
    KeySource: ("file", "text", "kms"),
    Listen: ("host", "port", "certificate", "key", "is_shared"),
    ReplicationPolicy: ("dead_s", "away_s", "copies"),
    TlsFiles: ("certificate", "private_key", "authority"),
}
MODULES = {
    ActorName: "coordinator.actors",
    EmbedderState: "cluster.service.embedders",
    GatewayState: "cluster.service.process",
    Attachment: "coordinator.attachment",
    GatewayOptions: "cluster.service.process",
    KeySource: "coordinator.key_service",
    Listen: "cluster.service.serve",
    ReplicationPolicy: "coordinator.replication",
    TlsFiles: "coordinator.dataplane.tls",
}


@pytest.mark.parametrize("process", ARGUMENTS)
def test_an_actor_takes_the_arguments_that_it_was_given_once(process: type) -> None:
    required, others = ARGUMENTS[process]
    now = list(inspect.signature(process).parameters.values())
    assert tuple(parameter.name for parameter in now[: len(required + others)]) == required + others
    assert all(parameter.default is not inspect.Parameter.empty for parameter in now[len(required) :])


@pytest.mark.parametrize("cls", FIELDS)
def test_what_was_pickled_once_can_be_read(cls: type) -> None:
    assert cls.__module__ == MODULES[cls]
    assert tuple(field.name for field in fields(cls))[: len(FIELDS[cls])] == FIELDS[cls]
    values = {name: f"value of {name}" for name in FIELDS[cls]}
    read = copyreg.__newobj__(cls)  # type: ignore[attr-defined]
    read.__setstate__({**values, "a field that is not known any more": 1})
    assert {name: getattr(read, name) for name in values} == values


@kept
@dataclass(frozen=True, slots=True)
class Grown:
    """A class that has got fields since it was pickled."""

    old: int
    fresh: Path = Path("default")


@kept
@dataclass(frozen=True, slots=True)
class Careless:
    """The same without a default."""

    old: int
    fresh: int


def test_new_fields_get_their_defaults() -> None:
    assert pickle.loads(pickle.dumps(Grown(1, Path("given")))) == Grown(1, Path("given"))
    read = copyreg.__newobj__(Grown)  # type: ignore[attr-defined]
    read.__setstate__({"old": 1})
    assert read == Grown(1)
    with pytest.raises(TypeError, match=r"Careless\.fresh is kept in arguments of actors: expected a default"):
        copyreg.__newobj__(Careless).__setstate__({"old": 1})  # type: ignore[attr-defined]


def test_a_fingerprint_is_of_the_values_and_tells_none_of_them() -> None:
    policy = ReplicationPolicy()
    assert fingerprint(b"secret", policy, None) == fingerprint(b"secret", ReplicationPolicy(), None)
    assert fingerprint(b"secret", policy) != fingerprint(b"other", policy)
    assert "secret" not in fingerprint(b"secret")


def test_a_fingerprint_is_of_the_version_too_and_a_revision_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("given"), revision_of("given")
    monkeypatch.setattr("coordinator.kept.installed_version", lambda: "another")
    assert fingerprint("given") != before[0]
    assert revision_of("given") == before[1] != revision_of("other")
