"""The command line without photos: arguments, JSON, exit codes, output that no file name can break."""

import contextlib
import dataclasses
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coordinator.host
from cluster.cli import embedding_files, run
from cluster.cli.app import hoisted
from cluster.cli.output import Grid, Output, printable
from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.erasure import Erasure
from coordinator.home import Home
from coordinator.types import DOWN
from shard.errors import WriteFailed
from tests.faces_like import unit_rows

ROOT = Path(__file__).resolve().parents[2]
DIM = 64


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = ("HOME", "RUNTIME", "MODELS", "EMBEDDER", "DETECTOR", "KERNEL", "CACHE", "THREADS")
    for name in (*settings, "SHARD_HOSTS", "ERASURE_HOURS", "CATALOG"):
        monkeypatch.delenv(f"FACEGRID_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACEGRID_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, list[Any]]]:
    """Run with --json: exit code, the document on stdout (None if there is none), the objects on stderr."""

    def call(*arguments: object) -> tuple[int, Any, list[Any]]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert out == "" or out.count("\n") == 1, "one document, one line"
        return code, json.loads(out) if out else None, [json.loads(line) for line in err.splitlines()]

    return call


@pytest.fixture
def gallery(answer: Callable[..., Any]) -> str:
    assert answer("gallery", "create", "acme/staff", "--dim", DIM, "--shards", 2)[0] == 0
    return "acme/staff"


def saved(name: str, values: Any) -> str:
    np.save(name, values)
    return name


def test_a_gallery_is_created_listed_shown_and_dropped(answer: Any) -> None:
    code, created, _ = answer("gallery", "create", "acme/staff", "--dim", DIM, "--shards", 3, "--code-bits", 256)
    assert code == 0
    assert created["is_new"]
    stats = created["gallery"]
    assert (stats["name"], stats["dim"], stats["shards"], stats["code_bits"]) == ("acme/staff", DIM, 3, 256)
    (listed,) = answer("gallery", "list")[1]["galleries"]
    # Opening it again has emptied its logs.
    assert {**listed, "disk_bytes": 0} == {**stats, "disk_bytes": 0}
    assert 0 < listed["disk_bytes"] <= stats["disk_bytes"]
    assert answer("gallery", "show", "acme/staff", "--identities")[1]["gallery"]["identities"] == []
    assert answer("gallery", "drop", "acme/staff", "--yes")[1] == {"dropped": "acme/staff", "templates": 0}
    assert answer("gallery", "list")[1] == {"galleries": []}


def test_creating_twice_is_an_error_unless_said_otherwise(answer: Any, gallery: str) -> None:
    code, document, (error,) = answer("gallery", "create", gallery, "--dim", DIM)
    assert (code, document, error["error"]["code"]) == (4, None, "already_exists")
    code, document, _ = answer("gallery", "create", gallery, "--dim", DIM, "--exist-ok")
    assert (code, document["is_new"]) == (0, False)
    assert answer("gallery", "create", gallery, "--dim", DIM * 2, "--exist-ok")[0] == 4


def test_embeddings_are_enrolled_searched_and_deleted(answer: Any, gallery: str) -> None:
    rows = unit_rows(20, DIM, seed=1)
    saved("rows.npy", rows)
    saved("half.npy", rows[:3].astype(np.float16))
    Path("names.txt").write_text("\n".join(["Ann", ""] * 10) + "\n")
    Path("ids.txt").write_text("\n".join(f"t{i}" for i in range(20)))
    code, document, _ = answer(
        "enroll", gallery, "--embeddings", "rows.npy", "--identities", "names.txt", "--ids", "ids.txt"
    )
    assert (code, document["rows"], document["enrolled"], document["skipped"]) == (0, 20, 20, 0)

    code, document, _ = answer("search", gallery, "--embeddings", "half.npy", "-k", 2, "--exact")
    assert code == 0
    assert document["coverage"] == {"answered": 2, "asked": 2}
    best = [probe["candidates"][0] for probe in document["probes"]]
    assert [c["template_id"] for c in best] == ["t0", "t1", "t2"]
    assert [c["identity"] for c in best] == ["Ann", None, "Ann"]
    assert all(c["score"] == pytest.approx(1, abs=1e-3) for c in best)

    assert answer("delete", gallery, "--identity", "Ann", "--yes")[1]["deleted"] == 10
    assert answer("delete", gallery, "--identity", "Ann", "--yes")[0] == 1
    assert answer("delete", gallery, "--template-id", "t1", "--template-id", "t3", "--yes")[1]["deleted"] == 2
    assert answer("status")[1]["templates"] == 8


def test_an_interrupted_enrollment_is_completed_with_skip(answer: Any, gallery: str) -> None:
    rows = unit_rows(6, DIM, seed=2)
    for count in (4, 6):
        saved(f"{count}.npy", rows[:count])
        Path(f"{count}.txt").write_text("\n".join(f"t{i}" for i in range(count)))
    answer("enroll", gallery, "--embeddings", "4.npy", "--ids", "4.txt")
    again = ("enroll", gallery, "--embeddings", "6.npy", "--ids", "6.txt")
    assert answer(*again)[2][-1]["error"]["code"] == "duplicate_template"
    document = answer(*again, "--if-exists", "skip")[1]
    assert (document["enrolled"], document["skipped"]) == (2, 4)


def test_bad_rows_in_a_later_chunk_enroll_nothing(answer: Any, gallery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_files, "CHUNK_ROWS", 4)
    rows = unit_rows(10, DIM, seed=3)
    rows[9, 0] = np.nan
    code, _, errors = answer("enroll", gallery, "--embeddings", saved("rows.npy", rows))
    assert (code, errors[-1]["error"]["code"]) == (2, "invalid_embedding")
    assert answer("status")[1]["templates"] == 0
    rows[9] = rows[8]
    assert answer("enroll", gallery, "--embeddings", saved("rows.npy", rows))[1]["enrolled"] == 10


def test_a_search_that_finds_nothing_exits_with_1(answer: Any, gallery: str) -> None:
    probe = saved("probe.npy", unit_rows(1, DIM, seed=4)[0])
    code, document, _ = answer("search", gallery, "--embeddings", probe)
    assert (code, document["probes"]) == (1, [{"candidates": []}])


THREE_HOSTS = ("--shard-hosts", 3)


@pytest.fixture
def replicated(answer: Callable[..., Any]) -> str:
    """A gallery of four shards with two replicas each on three hosts, with templates of Ann and Bob."""
    options = ("--dim", DIM, "--shards", 4, "--replicas", 2, *THREE_HOSTS)
    code, created, _ = answer("gallery", "create", "acme/staff", *options)
    assert (code, created["gallery"]["replicas"], created["gallery"]["in_sync"]) == (0, 2, 2)
    Path("names.txt").write_text("\n".join(["Ann", "Bob"] * 20) + "\n")
    rows = saved("rows.npy", unit_rows(40, DIM, seed=8))
    assert answer("enroll", "acme/staff", "--embeddings", rows, "--identities", "names.txt")[0] == 0
    return "acme/staff"


def test_galleries_have_as_many_replicas_as_asked_for(answer: Any, replicated: str) -> None:
    assert answer("gallery", "create", replicated, "--exist-ok", "--dim", DIM, "--replicas", 2)[0] == 0
    assert answer("gallery", "create", replicated, "--exist-ok", "--dim", DIM, "--replicas", 3)[0] == 4
    options = ("--dim", DIM, "--replicas", 3, "--min-in-sync", 2)
    stats = answer("gallery", "create", "acme/other", *options)[1]["gallery"]
    assert (stats["replicas"], stats["min_in_sync"], stats["in_sync"]) == (3, 2, 3)
    assert stats["hosts"] == ["host-0", "host-1", "host-2"]
    assert answer("gallery", "show", "acme/other")[1]["gallery"]["min_in_sync"] == 2


def test_hosts_are_shown_drained_and_undrained(answer: Any, replicated: str) -> None:
    code, shown, _ = answer("cluster", "status")
    assert (code, shown["shards"], shown["lacking"], shown["copying"]) == (0, 4, [], [])
    assert [(host["host"], host["state"]) for host in shown["hosts"]] == [(f"host-{i}", "up") for i in range(3)]
    assert sum(host["replicas"] for host in shown["hosts"]) == 8
    assert sum(host["primaries"] for host in shown["hosts"]) == 4
    held = shown["hosts"][1]["replicas"]

    code, marked, _ = answer("cluster", "drain", "host-1", "--no-wait")
    assert (code, marked) == (0, {"host": "host-1", "state": "draining", "replicas": held, "left": held})
    code, drained, _ = answer("cluster", "drain", "host-1")
    assert (code, drained) == (0, {"host": "host-1", "state": "draining", "replicas": held, "left": 0})
    assert not list(Path("facegrid-home/hosts/host-1").glob("tenants/*/*/shard-*"))
    status = answer("status")[1]
    assert status["hosts"] == ["host-0", "host-1", "host-2"]
    assert status["host_states"] == {"host-0": "up", "host-1": "draining", "host-2": "up"}
    assert status["templates"] == 40
    assert answer("gallery", "show", replicated)[1]["gallery"]["hosts"] == ["host-0", "host-2"]

    code, document, errors = answer("cluster", "drain", "host-0")
    assert (code, document, errors[-1]["error"]["code"]) == (9, None, "cluster_not_ready")
    assert "add a host first" in errors[-1]["error"]["message"]
    assert answer("cluster", "undrain", "host-1")[:2] == (0, {"host": "host-1", "state": "up"})
    assert answer("cluster", "drain", "host-0", "--timeout", 60)[1]["left"] == 0


def test_replicas_are_compared(answer: Any, replicated: str) -> None:
    assert answer("cluster", "compare")[:2] == (0, {"differing": []})


def test_replicas_that_differ_are_an_exit_code(answer: Any, replicated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.host import ShardHost
    from coordinator.messages import DigestReply, DigestRequest

    told = ShardHost.digest

    def digest(self: ShardHost, request: DigestRequest) -> DigestReply:
        reply = told(self, request)
        return dataclasses.replace(reply, records=reply.records ^ 1) if self.name == "host-1" else reply

    monkeypatch.setitem(coordinator.host._HANDLERS, DigestRequest, digest)
    code, document, _ = answer("cluster", "compare")
    assert code == 1
    assert document["differing"]
    assert all("of acme/staff on " in line for line in document["differing"])
    assert answer("cluster", "status")[1]["lacking"] == [], "it has waited until they were copied anew"


def test_what_is_held_of_the_deleted_is_reported_and_compacted(answer: Any, replicated: str) -> None:
    assert answer("delete", replicated, "--identity", "Ann", "--yes")[1]["deleted"] == 20
    code, report, _ = answer("erasure-report")
    assert (code, report["overdue"], report["unknown"], report["hosts_away"]) == (0, 0, 0, [])
    assert len(report["replicas"]) == 8
    holding = [entry for entry in report["replicas"] if not entry["is_clean"]]
    assert len(holding) == 2, "one identity lives in one shard"
    for entry in holding:
        assert (entry["gallery"], entry["is_in_sync"], entry["is_known"]) == (replicated, True, True)
        assert (entry["dead_rows"], entry["is_overdue"]) == (20, False)
        assert entry["due"] == entry["oldest"] + 24 * 3_600
    assert answer("erasure-report", replicated)[1]["replicas"] == report["replicas"]

    code, done, _ = answer("compact", "--all", "--due")
    assert (code, done["galleries"], done["replicas"], done["clean"], done["dead_rows"]) == (0, [replicated], 8, 6, 40)
    for options in ((replicated,), (replicated, "--now"), ("--all", "--now")):
        code, done, _ = answer("compact", *options)
        assert (code, done["clean"], done["dead_rows"], done["overdue"], done["unknown"]) == (0, 8, 0, 0, 0)
    assert all(entry["is_clean"] for entry in answer("erasure-report")[1]["replicas"])
    assert b"Ann" not in b"".join(p.read_bytes() for p in Path("facegrid-home").rglob("*") if p.is_file())


def test_what_is_overdue_is_an_exit_code(
    answer: Any, replicated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Erasure, config: object, least_dead: float) -> None:
        raise WriteFailed("no space left on device")

    monkeypatch.setattr(Erasure, "_erase", fail)
    monkeypatch.setenv("FACEGRID_ERASURE_HOURS", "1e-6")
    answer("delete", replicated, "--identity", "Ann", "--yes")
    code, report, _ = answer("erasure-report")
    assert (code, report["overdue"]) == (1, 2)
    assert sum(entry["is_overdue"] for entry in report["replicas"]) == 2
    assert answer("compact", "--all", "--due")[0] == 1
    assert answer("compact", "--all")[0] == 6
    capsys.readouterr()
    assert run(["erasure-report"]) == 1
    out = capsys.readouterr().out
    assert out.count("overdue") == 3, "two replicas and the verdict"
    monkeypatch.undo()


def test_a_host_that_is_gone_is_unknown_and_told_to_be_away(
    answer: Any, replicated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    held = next(host for host in answer("cluster", "status")[1]["hosts"] if host["host"] == "host-2")["replicas"]
    shutil.rmtree("facegrid-home/hosts/host-2")
    code, report, _ = answer("erasure-report")
    assert (code, report["unknown"]) == (1, held)
    assert {entry["host"] for entry in report["replicas"] if not entry["is_known"]} == {"host-2"}
    with contextlib.closing(Catalog(Path("facegrid-home/catalog.db"))) as catalog:
        catalog.set_host_state("host-2", DOWN, 1_000.0)
    assert answer("erasure-report")[1]["hosts_away"] == [{"host": "host-2", "since": 1_000.0}]
    code, _, errors = answer("cluster", "drain", "host-2")
    assert (code, errors[-1]["error"]["code"]) == (9, "cluster_not_ready")
    capsys.readouterr()
    assert run(["erasure-report"]) == 1
    assert "host-2 is down since 1970-01-01 00:16:40 UTC" in capsys.readouterr().out


def test_people_see_hosts_and_replicas_in_tables(replicated: str, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: str) -> str:
        capsys.readouterr()
        assert run(arguments) == 0
        out, err = capsys.readouterr()
        assert not [line for line in err.splitlines() if not line.startswith("warning: ")], "no progress in a pipe"
        return out

    assert "all of 4 shards have their replicas in sync" in shown("cluster", "status")
    assert "host-1 is draining and empty" in shown("cluster", "drain", "host-1")
    assert "host-1 (draining)" in shown("status")
    assert "2 of 2" in shown("gallery", "list")
    assert "min_in_sync" in shown("gallery", "show", replicated)
    assert "host-1 is up" in shown("cluster", "undrain", "host-1")
    assert "are alike" in shown("cluster", "compare")
    assert "nothing is overdue" in shown("erasure-report", replicated)
    assert "8 of 8 replicas hold nothing" in shown("compact", replicated)
    assert "to leave it while the home is open" in shown("cluster", "drain", "host-0", "--no-wait")
    with contextlib.closing(Catalog(Path("facegrid-home/catalog.db"))) as catalog:
        config = catalog.shards()[0]
        other = config.in_sync[1]
        catalog.reconfigure(dataclasses.replace(config, in_sync=(config.primary,), joining=(other,)))
    out = shown("cluster", "status")
    assert "1 of 4 shards lack replicas" in out
    assert "being copied" in out
    assert "1 of 2" in out


def test_an_erasure_report_of_nothing_says_so(answer: Any) -> None:
    answer("gallery", "create", "a/b", "--dim", DIM)
    answer("gallery", "drop", "a/b", "--yes")
    code, report, _ = answer("erasure-report")
    assert (code, report["replicas"]) == (0, [])
    assert answer("compact", "--all")[1]["galleries"] == []


BAD = {
    "no home": (("--home", "elsewhere", "gallery", "list"), 3, "not_found"),
    "home is a file": (("--home", "names.txt", "gallery", "list"), 2, "invalid_parameter"),
    "home in a file": (("--home", "names.txt/home", "gallery", "create", "a/b"), 2, "invalid_parameter"),
    "unknown gallery": (("gallery", "show", "acme/none"), 3, "unknown_gallery"),
    "bad name": (("gallery", "create", "Staff"), 2, "invalid_parameter"),
    "dimension": (("gallery", "create", "a/b", "--dim", "3"), 2, "invalid_parameter"),
    "shards": (("gallery", "create", "a/b", "--dim", "64", "--shards", "0"), 2, "invalid_parameter"),
    "replicas": (("gallery", "create", "a/b", "--dim", "64", "--replicas", "0"), 2, "invalid_parameter"),
    "min in sync": (("gallery", "create", "a/b", "--dim", "64", "--min-in-sync", "2"), 2, "invalid_parameter"),
    "too few hosts": (("gallery", "create", "a/b", "--dim", "64", "--replicas", "2"), 9, "cluster_not_ready"),
    "unknown host": (("cluster", "drain", "host-9"), 2, "invalid_parameter"),
    "unknown host undrained": (("cluster", "undrain", "host-9"), 2, "invalid_parameter"),
    "the only host": (("cluster", "drain", "host-0"), 9, "cluster_not_ready"),
    "timeout": (("cluster", "drain", "host-0", "--timeout", "0"), 2, "invalid_parameter"),
    "timeout and no wait": (("cluster", "compare", "--no-wait", "--timeout", "9"), 2, "invalid_parameter"),
    "nothing to compact": (("compact",), 2, "invalid_parameter"),
    "one and all": (("compact", "acme/staff", "--all"), 2, "invalid_parameter"),
    "now and due": (("compact", "--all", "--now", "--due"), 2, "invalid_parameter"),
    "unknown gallery to compact": (("compact", "acme/none"), 3, "unknown_gallery"),
    "unknown gallery due": (("compact", "acme/none", "--due"), 3, "unknown_gallery"),
    "unknown gallery to report": (("erasure-report", "acme/none"), 3, "unknown_gallery"),
    "unknown embedder": (("--embedder", "none", "gallery", "create", "a/b"), 3, "unknown_model"),
    "k 0": (("search", "acme/staff", "--embeddings", "rows.npy", "-k", "0"), 2, "invalid_parameter"),
    "k too large": (("search", "acme/staff", "--embeddings", "rows.npy", "-k", "1001"), 2, "invalid_parameter"),
    "recall 1": (("search", "acme/staff", "--embeddings", "rows.npy", "--recall", "1"), 2, "invalid_parameter"),
    "threshold": (("search", "acme/staff", "--embeddings", "rows.npy", "--threshold", "nan"), 2, "invalid_parameter"),
    "recall and exact": (("search", "acme/staff", "x.jpg", "--recall", "0.9", "--exact"), 2, "invalid_parameter"),
    "no probe": (("search", "acme/staff"), 2, "invalid_parameter"),
    "wrong dimension": (("search", "acme/staff", "--embeddings", "wide.npy"), 2, "invalid_embedding"),
    "float64": (("enroll", "acme/staff", "--embeddings", "double.npy"), 2, "invalid_embedding"),
    "pickle": (("enroll", "acme/staff", "--embeddings", "pickle.npy"), 2, "invalid_embedding"),
    "archive": (("enroll", "acme/staff", "--embeddings", "archive.npz"), 2, "invalid_embedding"),
    "not an array": (("enroll", "acme/staff", "--embeddings", "names.txt"), 2, "invalid_embedding"),
    "damaged header": (("enroll", "acme/staff", "--embeddings", "damaged.npy"), 2, "invalid_embedding"),
    "no file": (("enroll", "acme/staff", "--embeddings", "none.npy"), 2, "invalid_embedding"),
    "too few names": (
        ("enroll", "acme/staff", "--embeddings", "rows.npy", "--identities", "names.txt"), 2, "invalid_parameter",
    ),
    "photos and embeddings": (("enroll", "acme/staff", "a.jpg", "--embeddings", "rows.npy"), 2, "invalid_parameter"),
    "nothing to enroll": (("enroll", "acme/staff"), 2, "invalid_parameter"),
    "folder that is not there": (("enroll", "acme/staff", "none/"), 2, "invalid_parameter"),
    "folder with identity": (("enroll", "acme/staff", ".", "--identity", "Ann"), 2, "invalid_parameter"),
    "if-exists": (("enroll", "acme/staff", "--embeddings", "rows.npy", "--if-exists", "x"), 2, "invalid_parameter"),
    "nothing to delete": (("delete", "acme/staff", "--yes"), 2, "invalid_parameter"),
    "delete without yes": (("delete", "acme/staff", "--identity", "Ann"), 2, "invalid_parameter"),
    "too few to train": (("train", "acme/staff"), 7, "not_enough_data"),
    "nothing to train": (("train",), 2, "invalid_parameter"),
    "a gallery and all": (("train", "acme/staff", "--all"), 2, "invalid_parameter"),
    "no rollout to undo": (("rollout", "rollback", "acme/staff"), 3, "not_found"),
    "rollout of nothing": (("rollout", "status", "acme/nobody"), 3, "unknown_gallery"),
    "unknown network": (("models", "pull", "none"), 3, "unknown_model"),
    "network without address": (("models", "pull", "w600k_r50"), 7, "model_file_missing"),
    "runtime": (("--runtime", "moon", "gallery", "list"), 2, "invalid_parameter"),
    "kernel": (("--kernel", "none", "gallery", "list"), 2, "invalid_parameter"),
    "unknown command": (("enrol", "acme/staff"), 2, "usage"),
    "unknown option": (("gallery", "list", "--colour"), 2, "usage"),
    "missing argument": (("verify", "a.jpg"), 2, "usage"),
    "not a number": (("search", "acme/staff", "-k", "many"), 2, "usage"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_named_error(answer: Any, gallery: str, name: str) -> None:
    saved("rows.npy", unit_rows(3, DIM, seed=5))
    saved("wide.npy", unit_rows(3, DIM * 2, seed=5))
    saved("double.npy", np.ones((3, DIM)))
    saved("pickle.npy", np.array([{}], dtype=object))
    np.savez("archive.npz", a=np.ones(3))
    Path("damaged.npy").write_bytes(Path("rows.npy").read_bytes().replace(b"64), }", b"64,   "))
    Path("names.txt").write_text("Ann\n")
    arguments, exit_code, error_code = BAD[name]
    code, document, errors = answer(*arguments)
    assert (code, document) == (exit_code, None)
    assert errors[-1]["error"]["code"] == error_code
    assert errors[-1]["error"]["message"]
    assert answer("status")[1]["templates"] == 0


def test_a_locked_home_says_so_and_doctor_goes_on(answer: Any, gallery: str) -> None:
    home = Home(Path("facegrid-home"))
    try:
        code, _, errors = answer("gallery", "list")
        assert (code, errors[-1]["error"]["code"], errors[-1]["error"]["is_retryable"]) == (5, "home_locked", True)
        code, document, _ = answer("doctor")
        found = {finding["check"]: finding["status"] for finding in document["findings"]}
        assert (code, found["home"]) == (0, "warn")
    finally:
        home.close()


def test_a_newer_home_is_refused(answer: Any, gallery: str) -> None:
    Path("facegrid-home/facegrid.json").write_text('{"format": 999, "home_id": "x"}')
    code, _, errors = answer("gallery", "list")
    assert (code, errors[-1]["error"]["code"]) == (6, "format_too_new")
    code, document, _ = answer("doctor")
    assert code == 1
    assert not document["is_healthy"]


def test_doctor_names_the_damaged_shard(answer: Any, gallery: str) -> None:
    assert answer("doctor", "--deep")[1]["is_healthy"]
    (shard, _) = sorted(Path("facegrid-home").rglob("shard.db"))
    shard.write_bytes(b"not a database" * 100)
    code, document, _ = answer("doctor")
    (finding,) = [f for f in document["findings"] if f["check"] == f"gallery {gallery}"]
    assert (code, finding["status"]) == (1, "fail")
    assert "shard 0" in finding["detail"]
    assert "shard 1" not in finding["detail"]


def test_doctor_says_that_a_home_is_a_file(answer: Any) -> None:
    Path("file").write_text("x")
    code, document, _ = answer("doctor", "--home", "file")
    (finding,) = [f for f in document["findings"] if f["check"] == "home"]
    assert (code, finding["status"]) == (1, "fail")
    assert "expected a directory" in finding["detail"]


def test_doctor_names_a_damaged_catalog(answer: Any, gallery: str) -> None:
    Path("facegrid-home/catalog.db").write_bytes(b"not a database" * 100)
    code, document, _ = answer("doctor")
    found = {finding["check"]: finding["status"] for finding in document["findings"]}
    assert (code, found["home"], found["catalog"]) == (1, "ok", "fail")


def test_doctor_reads_checksums_when_asked(answer: Any, gallery: str) -> None:
    from cluster import Cluster

    answer("enroll", gallery, "--embeddings", saved("rows.npy", unit_rows(50, DIM, seed=6)))
    with Cluster.open("facegrid-home") as grid:
        grid.gallery(gallery).flush()
    floats = max(Path("facegrid-home").rglob("segment-*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(floats.read_bytes())
    data[7] ^= 1
    floats.write_bytes(data)
    assert answer("doctor")[0] == 0
    assert answer("doctor", "--deep")[0] == 1


def test_doctor_reports_a_misspelt_setting(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGRID_EMBEDER", "x")
    code, document, _ = answer("doctor")
    assert code == 1
    assert "FACEGRID_EMBEDER" in document["findings"][-1]["detail"]
    assert answer("gallery", "list")[0] == 2


def test_galleries_are_trained_and_rolled_back(answer: Any, gallery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer("gallery", "create", "acme/few", "--dim", DIM, "--shards", 1)
    answer("enroll", gallery, "--embeddings", saved("rows.npy", unit_rows(1_100, DIM, seed=1)))
    code, document, _ = answer("train", "--all")
    assert code == 0
    few, many = document["galleries"]
    assert (few["gallery"], "needs at least 1000" in few["skipped"]) == ("acme/few", True)
    assert (many["gallery"], many["templates"], many["drift"]) == (gallery, 1_100, None)
    (rollout,) = answer("rollout", "status")[1]["rollouts"]
    # Enrolling trained the gallery already, so there was nothing left to roll out.
    assert (rollout["gallery"], rollout["state"], rollout["model_id"]) == (gallery, "done", many["model_id"])
    assert (rollout["replicas"], rollout["prepared"], rollout["activated"]) == (2, 2, 2)
    assert answer("rollout", "status", "acme/few")[1] == {"rollouts": []}
    answer("enroll", gallery, "--embeddings", saved("more.npy", unit_rows(400, DIM, seed=2)))
    drift = answer("gallery", "show", gallery)[1]["gallery"]["drift"]
    assert (drift["rows"], drift["score"] < 0.5) == (400, True)
    code, document, _ = answer("train", gallery)
    assert (code, document["drift"]) == (0, drift)
    code, document, _ = answer("rollout", "rollback", gallery)
    assert (code, document["rollout"]["state"]) == (0, "rolled_back")
    assert answer("gallery", "show", gallery)[1]["gallery"]["model_id"] == many["model_id"]

    def failing(*_: object, **__: object) -> None:
        raise WriteFailed("no space left on device")

    monkeypatch.setattr(Coordinator, "train", failing)
    code, document, _ = answer("train", "--all")
    assert code == 10
    assert {entry["error"]["code"] for entry in document["galleries"]} == {"write_failed"}


def test_a_rollout_is_shown_to_people(gallery: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["enroll", gallery, "--embeddings", saved("rows.npy", unit_rows(1_100, DIM, seed=1))]) == 0
    capsys.readouterr()
    for command, words in {
        ("rollout", "status"): ("done", "2 of 2", "exact"),
        ("train", "--all"): ("trained model", "1,100 of 1,100"),
        ("gallery", "show", gallery): ("drift",),
        ("rollout", "rollback", gallery): ("searched exactly",),
        ("rollout", "status", gallery): ("rolled_back",),
    }.items():
        assert run(list(command)) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words), out


def test_models_are_listed_with_their_licences(answer: Any) -> None:
    code, document, _ = answer("models", "list")
    by_name = {model["name"]: model for model in document["models"]}
    assert code == 0
    assert by_name["sface_2021dec"]["licence"] == "Apache-2.0"
    assert by_name["sface_2021dec"]["state"] == "can be pulled"
    assert not by_name["w600k_r50"]["is_commercial_use_allowed"]


def test_a_corrupt_network_file_is_refused(answer: Any) -> None:
    Path("networks").mkdir()
    Path("networks/face_detection_yunet_2023mar.onnx").write_bytes(b"no network")
    for photo in ("a.jpg", "b.jpg"):
        Path(photo).write_bytes(b"no photo")
    code, _, errors = answer("verify", "a.jpg", "b.jpg", "--models", "networks")
    assert (code, errors[-1]["error"]["code"]) == (7, "model_file_corrupt")
    states = {m["name"]: m["state"] for m in answer("models", "list", "--models", "networks")[1]["models"]}
    assert states["yunet_2023mar"] == "corrupt"
    assert answer("doctor", "--models", "networks")[0] == 1


def test_options_come_before_the_environment(answer: Any, gallery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGRID_HOME", "elsewhere")
    assert answer("gallery", "list")[0] == 3
    assert answer("gallery", "list", "--home", "facegrid-home")[0] == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["gallery", "list", "--json"], ["--json", "gallery", "list"]),
        (["search", "g", "x.jpg", "--home", "h", "-vv"], ["--home", "h", "-vv", "search", "g", "x.jpg"]),
        (["search", "g", "--home=h", "-k", "3"], ["--home=h", "search", "g", "-k", "3"]),
        (["--json", "delete", "g", "--", "--json"], ["--json", "delete", "g", "--", "--json"]),
        (["gallery", "list", "--home"], ["--home"]),
        (["gallery", "--help"], ["gallery", "--help"]),
    ],
)
def test_global_options_may_stand_anywhere(given: list[str], expected: list[str]) -> None:
    assert hoisted(given) == expected


def test_a_global_option_without_its_value_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--json", "gallery", "list", "--home"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


def test_text_from_outside_is_neither_markup_nor_control(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "[bold red]x[/] \x1b[31m\r\udcff\u202e.jpg"
    Output().result({}, hostile, Grid(("path",), [(Path(hostile),)]))
    out = capsys.readouterr().out
    assert out.count("[bold red]x[/] \\x1b[31m\\r\\udcff\\u202e.jpg") == 2
    assert printable("Ærø 張\n") == "Ærø 張\n"


def test_json_carries_any_file_name(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\udcff\x1b[31m張.jpg"
    Output(as_json=True).result({"path": Path(name)})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"path": name}


@pytest.mark.parametrize(("exc_info", "said"), [(False, ""), (None, ""), (True, ": a cause")])
def test_log_records_are_notes_with_and_without_an_error(
    capsys: pytest.CaptureFixture[str], exc_info: bool | None, said: str
) -> None:
    Output(as_json=True).capture_logs()
    try:
        raise ValueError("a cause")
    except ValueError:
        logging.getLogger("coordinator.part").warning("of %s", "a part", exc_info=exc_info)
    assert json.loads(capsys.readouterr().err) == {"note": {"level": "warning", "message": f"of a part{said}"}}


def test_what_logs_goes_on_where_stderr_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    Output().capture_logs()
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True))
    logging.getLogger("coordinator.part").warning("nobody reads this")


def test_people_get_lines_and_tables(capsys: pytest.CaptureFixture[str], gallery: str) -> None:
    capsys.readouterr()
    assert run(["gallery", "list"]) == 0
    out, err = capsys.readouterr()
    assert gallery in out
    assert err == ""
    assert run(["gallery", "show", "acme/none"]) == 3
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error [unknown_gallery]: no gallery 'acme/none'\n")


def test_starting_imports_no_engine() -> None:
    """`facegrid --help` must not wait for Ray, OpenCV, onnxruntime, SQLAlchemy or numpy."""
    probe = "import sys, cluster.cli; cluster.cli.run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, text=True, capture_output=True, check=True)
    loaded = set(done.stderr.split())
    assert "cluster.cli.app" in loaded
    assert not loaded & {"ray", "cv2", "onnxruntime", "sqlalchemy", "numpy", "httpx", "shard._native"}


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("facegrid ")


def test_a_kernel_is_chosen_by_option(tmp_path: Path) -> None:
    """In a process of its own: the kernel is chosen once."""
    arguments = ["gallery", "create", "a/b", "--dim", "64", "--home", str(tmp_path / "home"), "--kernel", "scalar"]
    probe = f"import cluster.cli, shard.index; print(cluster.cli.run({arguments!r}), shard.index.kernel())"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 scalar"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = [sys.executable, "-m", "cluster.cli", "version"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_snapshots_are_part_of_what_is_held(answer: Any, replicated: str, tmp_path: Path) -> None:
    assert answer("erasure-report")[1]["snapshots"] == []
    code, made, _ = answer("snapshot", "create", replicated, tmp_path / "store")
    assert code == 0
    (held,) = answer("erasure-report", replicated)[1]["snapshots"]
    assert (held["gallery"], held["store"], held["is_overdue"]) == (replicated, str(tmp_path / "store"), False)
    assert held["snapshot_id"] in json.dumps(made)


def test_a_gallery_is_calibrated_and_searched_by_fpir(
    answer: Any, gallery: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = unit_rows(200, DIM, seed=1)
    noise = 0.05 * np.random.default_rng(2).normal(size=people.shape)
    saved("rows.npy", np.concatenate([people, people + noise]).astype(np.float32))
    Path("names.txt").write_text("".join(f"p{i % 200}\n" for i in range(400)))
    assert answer("calibration", gallery)[0] == 3, "not calibrated"
    assert answer("calibrate", gallery)[2][-1]["error"]["code"] == "not_enough_data"
    assert answer("enroll", gallery, "--embeddings", "rows.npy", "--identities", "names.txt")[0] == 0
    code, made, _ = answer("calibrate", gallery, "--samples", 150, "--seed", 4)
    assert (code, made["probes"], made["genuine"], made["samples"], made["seed"]) == (0, 150, 150, 150, 4)
    assert [point["target_fmr"] for point in made["points"]] == [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    code, shown, _ = answer("calibration", gallery, "--target-fpir", 0.1, "--n", 800, "--svg", tmp_path / "a.svg")
    assert (code, shown["n"], shown["stale"], len(shown["fpir"])) == (0, 800, None, 1)
    assert (tmp_path / "a.svg").read_text().startswith("<svg ")
    low, high = shown["fpir"][0]["interval"]
    assert low <= shown["fpir"][0]["threshold"] <= high
    saved("probe.npy", people[:1])
    code, found, _ = answer("search", gallery, "--embeddings", "probe.npy", "--target-fpir", 0.1)
    assert (code, found["threshold"]) == (
        0,
        answer("calibration", gallery, "--target-fpir", 0.1)[1]["fpir"][0]["threshold"],
    )
    for arguments, expected in (
        (
            ("search", gallery, "--embeddings", "probe.npy", "--target-fpir", 0.1, "--threshold", 0.3),
            "invalid_parameter",
        ),
        (("search", gallery, "--embeddings", "probe.npy", "--target-fpir", 2), "invalid_parameter"),
        (("calibration", gallery, "--target-fpir", 1e-6), "not_enough_data"),
        (("calibration", gallery, "--n", 0), "invalid_parameter"),
        (("calibration", gallery, "--svg", tmp_path / "no" / "a.svg"), "invalid_parameter"),
        (("calibrate", gallery, "--samples", 5), "invalid_parameter"),
    ):
        code, document, said = answer(*arguments)
        assert (document, said[-1]["error"]["code"]) == (None, expected), arguments
    capsys.readouterr()
    assert run(["calibration", gallery]) == 0
    text = capsys.readouterr().out
    assert "too few comparisons" in text
    assert "target FPIR" in text
