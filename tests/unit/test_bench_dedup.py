"""Figures of the dedup benchmark against what can be worked out by hand."""

from __future__ import annotations

import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.dedup import results
from benchmarks.dedup.__main__ import parse, reached
from benchmarks.dedup.hosts import verdict
from benchmarks.dedup.kills import pairs_done, resumed
from benchmarks.dedup.modes import memory, times
from benchmarks.dedup.peers import extrapolations
from benchmarks.dedup.seeded import COUNTS, PER_CYCLE, Seeded, seeded_pairs, template_id
from benchmarks.dedup.targets import Steps, judged
from benchmarks.dedup.truth import MARGIN, accuracy, keys, truth_of
from benchmarks.dedup.watched import Peak, family, sizes
from tests.brute_pairs import all_pairs
from tests.faces_like import unit_rows

MACHINE = {"cpu": "one", "cores": 2}


def test_seeded_pairs_are_the_rows_of_one_person(tmp_path: Path) -> None:
    n = 3 * PER_CYCLE
    people = Seeded(tmp_path, n, 0)._source().rows(0, n)[1]
    left, right = seeded_pairs(n)
    expected = {(a, b) for a in range(n) for b in range(a + 1, n) if people[a] == people[b]}
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected
    assert (PER_CYCLE, len(left), COUNTS.count(1) / len(COUNTS)) == (50, 60, 0.9)


def test_template_ids_are_scattered_and_tell_the_row() -> None:
    ids = [template_id(row) for row in range(1_000)]
    assert [int(made[9:]) for made in ids] == list(range(1_000))
    assert len({made[:8] for made in ids}) == 1_000
    assert sum(a < b for a, b in pairwise(ids)) < 700


def test_truth_and_accuracy_of_a_sample() -> None:
    rows = unit_rows(PER_CYCLE * 4, 64, seed=1)
    rows[1] = rows[0]
    threshold = 0.25
    everything = sorted(all_pairs(rows, None, threshold))
    left, right = np.array(everything, np.int64).T
    scores = np.einsum("ij,ij->i", rows[left], rows[right])
    truth = truth_of(rows, threshold, 40, seed=3)
    touched = np.isin(left, truth.sample) | np.isin(right, truth.sample)
    sure = scores >= threshold + 2 * MARGIN
    assert set(keys(left, right, len(rows))[touched & sure]) <= set(truth.certain)
    assert len(truth.certain) + len(truth.borderline) >= np.count_nonzero(touched)
    found = accuracy(truth, rows, right, left, scores)  # either order of a pair is the same pair
    assert (found.recall, found.precision, found.wrong) == (1, 1, 0)
    assert found.score_error < 1e-6
    some = np.ones(len(left), np.bool_)
    some[np.flatnonzero(touched & sure)[:3]] = False
    lost = accuracy(truth, rows, left[some], right[some], scores[some])
    assert lost.recall_sample == 1 - 3 / len(truth.certain)
    stranger = next((a, b) for a in truth.sample for b in range(len(rows)) if rows[a] @ rows[b] < 0.1)
    wrong = accuracy(
        truth, rows, np.append(left, stranger[0]), np.append(right, stranger[1]), np.append(scores, np.float32(0.9))
    )
    assert (wrong.wrong, wrong.precision) == (1, len(left) / (len(left) + 1))


def test_times_add_up() -> None:
    phases = [("reading", 3.0), ("verifying", 2.0), ("sampling", 1.0), ("joining", 4.0), ("grouping", 0.5)]
    said = {"seconds": 12.0, "phases": [{"phase": name, "seconds": seconds} for name, seconds in phases]}
    found = times(said)
    assert (found["whole_s"], found["without_snapshot_s"]) == (12.0, 9.0)
    assert (found["after_verifying_s"], found["finding_pairs_s"]) == (5.5, 5.0)


def test_memory_is_the_peak_of_the_sum() -> None:
    peak = Peak()
    peak.take([{"anonymous": 10, "total": 20}, {"anonymous": 5, "total": 6}])
    peak.take([{"anonymous": 12, "total": 13}])
    assert (peak.anonymous, peak.total, peak.processes, peak.samples) == (15, 26, 2, 2)
    found = memory(peak, 1, 1_000, 130.0)
    assert (found["codes"], found["sketches"], found["bound"]) == (64_000, 130_000, 64_000 + 2**30)
    here = list(sizes(family(os.getpid())))
    assert 0 < here[0]["anonymous"] < here[0]["total"]


def test_extrapolations() -> None:
    at = {"fast": {"ef": 32, "query_s": 1.0}, "exact": None}
    late = {"fast": {"ef": 32, "query_s": 3.0}, "exact": None}
    peers: dict[str, Any] = {
        "faiss": [{"size": 1_000, "seconds": 1.0}, {"size": 2_000, "seconds": 4.0}],
        "hnswlib": [{"size": 1_000, "build_s": 1.0, "at": at}, {"size": 2_000, "build_s": 1.0, "at": late}],
    }
    found = extrapolations(peers, 4_000)
    assert (found["faiss_s"], found["faiss_exponent"]) == (16.0, 2.0)
    peers["faiss"][1]["seconds"] = 2.5  # one of them does not grow, so it counts once
    assert extrapolations(peers, 4_000)["faiss_s"] == pytest.approx(8.0)
    fast = found["hnswlib"]["fast"]
    assert fast["as_n_log_n_s"] == pytest.approx(4 * 2 * math.log(4_000) / math.log(2_000))
    assert (fast["exponent"], fast["as_power_s"]) == (1.0, 8.0)
    assert found["hnswlib"]["exact"] == {"exponent": None, "as_n_log_n_s": None, "as_power_s": None}


def test_hosts_agree_or_not() -> None:
    runs: list[dict[str, Any]] = [
        {"shards": 1, "workers": workers, "finding_pairs_s": seconds, "groups_sha256": "a", "pairs_sha256": "b"}
        for workers, seconds in ((1, 3.0), (2, 2.0))
    ]
    assert verdict(runs) == {"same_groups": True, "same_pairs": True, "times_faster_finding_pairs": 1.5}
    assert not verdict([*runs, runs[0] | {"groups_sha256": "c"}])["same_groups"]


def test_what_an_attempt_did_again(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("pairs-0000-0000", "pairs-0000-0001", "basis"):
        (tmp_path / "checkpoints" / name).touch()
    before = pairs_done(tmp_path)
    log = [{"message": "blocks", "phase": "joining", "todo": todo} for todo in (3, 2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    os.utime(tmp_path / "checkpoints" / "pairs-0000-0001", ns=(1, 1))
    found = resumed(before, tmp_path, blocks=3)
    assert found == {
        "killed_after_blocks": 2,
        "blocks_to_do_on_resume": 2,
        "blocks_finished_but_lost": 1,
        "checkpoints_made_again": 1,
    }


def mode(n: int, seconds: float, recall: float) -> dict[str, Any]:
    exactness = {
        "recall": recall, "recall_sample": recall, "recall_seeded": 1.0, "precision": 1.0, "wrong": 0, "reported": 9,
        "sample_pairs": 9, "sample_rows": 9, "seeded": 9, "seeded_above": 9, "score_error": 0.0,
    }  # fmt: skip
    said = {"seconds": seconds, "phases": [{"phase": "joining", "seconds": seconds}]}
    return {"found": {"n": n, **times(said), "memory": memory(Peak(1 << 20), 0, n, 100.0), "accuracy": exactness}}


def verdicts(steps: Steps) -> dict[str, bool | None]:
    return {item.figure: item.is_met for item in judged(steps)}


def test_targets_are_for_a_million() -> None:
    steps = {"exact": mode(1_000_000, 400.0, 0.9995), "fast": mode(1_000_000, 100.0, 0.98)}
    found = verdicts(steps)
    assert found["1,000,000, exact mode: whole job"] is True
    assert found["1,000,000, exact mode: pair recall"] is True
    assert found["1,000,000, fast mode: whole job"] is False
    assert found["1,000,000, fast mode: pair recall"] is False
    assert found["1,000,000, exact mode: peak memory"] is True
    assert found["against hnswlib"] is None
    assert reached(steps) == {"exact": 0.999, "fast": 0.98}
    found = verdicts({"exact": mode(50_000, 400.0, 1.0), "fast": mode(100_000, 1.0, 1.0)})
    assert found["50,000, exact mode: whole job"] is None
    assert found["100,000, fast mode: whole job"] is None


def test_a_step_that_failed_is_told() -> None:
    found = judged({"quality": {"failed": "no data"}})
    assert ("step quality", "failed: no data", None) in {(item.figure, item.measured, item.is_met) for item in found}


def test_partial_results_are_kept_and_have_no_path(tmp_path: Path) -> None:
    path = tmp_path / "dedup.json"
    about = {"machine": MACHINE, "source": {"commit": None}, "load_before": [0.0], "seconds": 1.0}
    steps: Steps = {"exact": {**about, **mode(1_000_000, 400.0, 1.0)}}
    results.write(path, results.document(steps), tmp_path)
    again = results.read(path)
    assert again == steps
    again["fast"] = {**about, **mode(1_000_000, 40.0, 1.0)}
    assert "10.0 times" in results.text(again)
    again["peers"] = {**about, "failed": f"{tmp_path}/x"}
    with pytest.raises(results.PathInResults):
        results.write(path, results.document(again), tmp_path)
    assert results.read(path) == steps


def test_options_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--ray"]).steps[-1] == "ray"
    for wrong, says in ((["--n", "70"], "multiple of 50"), (["--steps", "exact,none"], "got none")):
        with pytest.raises(SystemExit):
            parse(wrong)
        assert says in capsys.readouterr().err
