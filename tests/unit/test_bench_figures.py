"""The figures of the engine benchmark against what can be worked out by hand: recall, tuning, data, options."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.engine import growth
from benchmarks.engine.__main__ import parse
from benchmarks.engine.codes import fit, rerank
from benchmarks.engine.datasets import Dataset, Probes, Truth, lfw, synthetic
from benchmarks.engine.options import Options, named_peers, size_name
from benchmarks.engine.peer import Curve, Setting, blocks, doublings, efforts, padded
from benchmarks.engine.recall import Quality, mated_quality, stranger_quality
from benchmarks.engine.tuning import Tuner
from cluster.cli import bench, run
from shard.errors import InvalidParameter
from tests.faces_like import unit_rows

DIM, ROWS, MATED, STRANGERS, K = 128, 300, 40, 20, 10


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = unit_rows(ROWS, DIM, seed=1)
    rows[12] = rows[3]  # the same photo twice; both are of person 3
    probes = Probes(rows[:MATED].copy(), np.arange(MATED) % 9, unit_rows(STRANGERS, DIM, seed=2))
    scores = probes.both() @ rows.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    truth = Truth(best, np.take_along_axis(scores, best, axis=1))
    return Dataset("tiny", tmp_path, rows, np.arange(ROWS) % 9, probes, truth, {})


def test_exact_answers_are_worth_all(dataset: Dataset) -> None:
    assert mated_quality(dataset, dataset.truth.rows[:MATED]) == Quality(1, 1, 1)
    assert stranger_quality(dataset, dataset.truth.rows[MATED:]) == Quality(1, 1, None)


def test_a_duplicate_photo_is_as_good_as_the_other(dataset: Dataset) -> None:
    answers = dataset.truth.rows[:MATED].copy()
    for probe in (3, 12):
        answers[probe, :2] = answers[probe, 1::-1]
    assert mated_quality(dataset, answers).recall_1 == 1


def test_a_row_given_twice_and_a_row_not_given_count_once_and_not_at_all(dataset: Dataset) -> None:
    answers = dataset.truth.rows[:MATED].copy()
    answers[:, 5:] = answers[:, :5]
    assert mated_quality(dataset, answers).recall_10 == 0.5
    answers[:] = -1
    assert mated_quality(dataset, answers) == Quality(0, 0, 0)


def test_rank_1_asks_for_the_person_and_not_for_the_row(dataset: Dataset) -> None:
    answers = dataset.truth.rows[:MATED].copy()
    answers[:, 0] = dataset.probes.people + 9 * 20  # another photo of the same person
    assert mated_quality(dataset, answers).rank1 == 1
    assert mated_quality(dataset, answers).recall_1 == 0


@pytest.mark.parametrize("reached", range(13))
def test_tuning_finds_the_first_setting_on_a_curve(reached: int) -> None:
    asked: list[float] = []

    def measure(setting: Setting) -> Quality:
        asked.append(setting["effort"])
        return Quality(1.0 if setting["effort"] >= reached else 0.5, 0.0)

    tuner = Tuner([[{"effort": float(effort)} for effort in range(12)]], measure, lambda setting: setting["effort"])
    assert tuner.fastest(0.9) == ({"effort": float(reached)} if reached < 12 else None)
    assert tuner.best_recall() == (1.0 if reached < 12 else 0.5)
    assert len(asked) == len(set(asked)), "no setting is measured twice"


def test_the_clock_decides_between_curves() -> None:
    curves: list[Curve] = [[{"a": 1.0}, {"a": 2.0}], [{"b": 1.0}], [{"c": 1.0}]]
    times = {"a": 3.0, "b": 2.0, "c": 1.0}
    tuner = Tuner(curves, lambda s: Quality(0.0 if "c" in s else 0.95, 0.0), lambda s: times[next(iter(s))])
    assert tuner.fastest(0.9) == {"b": 1.0}


def test_numbers_double_and_blocks_cover() -> None:
    assert doublings(1, 8) == [1, 2, 3, 4, 6, 8]
    assert doublings(5, 5) == [5]
    assert efforts(1_000_000)[-1] == 4_000
    assert efforts(2_000)[-1] == 100
    assert [block.stop - block.start for block in blocks(10, 4)] == [4, 4, 2]
    assert padded([[1, 2], []], 2).tolist() == [[1, 2], [-1, -1]]


def test_codes_order_rows_as_floats_do_and_rerank_sorts_them() -> None:
    rows, probes = unit_rows(500, DIM, seed=3), unit_rows(20, DIM, seed=4)
    coder = fit(rows)
    bits, probe_bits = (np.unpackbits(coder.encode(of), axis=1).astype(np.int64) for of in (rows, probes))
    distances = (probe_bits[:, None] != bits[None]).sum(axis=2)
    scores = probes @ rows.T
    correlation = np.corrcoef(distances.ravel(), scores.ravel())[0, 1]
    assert correlation < -0.8
    shortlists = np.tile(np.arange(100), (20, 1))
    shortlists[:, 0] = -1
    expected = np.argsort(-scores[:, 1:100], axis=1, kind="stable")[:, :K] + 1
    assert rerank(rows, probes, shortlists, K).tolist() == expected.tolist()


def test_a_synthetic_dataset_is_exact_and_kept(tmp_path: Path) -> None:
    made = synthetic("twenty", 2_000, 5, tmp_path)
    assert len(made.rows) == 2_000
    assert len(np.unique(made.identities)) == 100
    scores = made.probes.both() @ made.rows.T
    assert np.allclose(made.truth.scores, -np.sort(-scores, axis=1)[:, :10], atol=1e-6)
    again = synthetic("twenty", 2_000, 5, tmp_path)
    assert again.seconds == made.seconds, "read, not made again"
    with pytest.raises(InvalidParameter, match="at least 2000"):
        synthetic("one", 1_999, 1, tmp_path)


def test_real_probes_keep_a_photo_in_the_gallery_and_strangers_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="expected edgeface_xs_512"):
        lfw(tmp_path, 1, tmp_path / "work")
    (tmp_path / "lfw").mkdir()
    people = np.repeat(np.arange(1_900), [3] * 600 + [1] * 1_300)
    np.save(tmp_path / "lfw" / "edgeface_xs_512.npy", unit_rows(len(people), 512, seed=6).astype(np.float16))
    (tmp_path / "lfw" / "identities.txt").write_text("".join(f"{person:04d}\n" for person in people))
    found = lfw(tmp_path, 1, tmp_path / "work")
    assert (len(found.probes.mated), len(found.probes.strangers)) == (1_000, 300)
    assert len(found.rows) == len(people) - 1_300
    assert set(found.probes.people) <= set(found.identities)
    kept = {row.tobytes() for row in found.rows}
    assert not any(row.tobytes() in kept for row in found.probes.both())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "two"], "shape: expected one of both, none, one, twenty, got two"),
        (["--peers", "facegrid,elastic"], "got elastic"),
        (["--recalls", "0.9,high"], "recalls: expected numbers"),
        (["--recalls", "1.0"], "between 0 and 1"),
        (["--shape", "none"], "a synthetic shape, or --real"),
        (["--runs", "0"], "runs: expected at least 1"),
        (["--k", "11"], "k: expected 1 to 10"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        parse(arguments)


def test_options_of_both_command_lines_agree() -> None:
    from cluster.cli.app import command

    engine = command().commands["bench"].commands["engine"]
    offered = {name for option in engine.params if option.param_type_name == "option" for name in option.opts}
    taken = {field.name for field in dataclasses.fields(Options)} - {"shapes", "is_real", "json"}
    assert offered == {f"--{name.replace('_', '-')}" for name in taken} | {"--shape", "--real"}
    assert parse(["--n", "5000"])[0].n == 5_000
    assert list(named_peers("usearch-b1, facegrid")) == ["facegrid", "usearch-b1"]
    assert [size_name(n) for n in (2_000_000, 20_000, 2_020)] == ["2m", "20k", "2020"]


def test_the_command_passes_options_on_and_errors_back(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "engine", "--shape", "two"]) == 2
    assert "expected one of both, none, one, twenty, got two" in capfd.readouterr().err


def test_the_command_says_where_the_benchmarks_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for program in ("benchmarks.not_there", "not_there.engine"):
        monkeypatch.setattr(bench, "_PROGRAM", program)
        assert run(["bench", "engine"]) == 8
        error = capsys.readouterr().err
        assert "missing_extra" in error
        assert "source tree" in error


def grown(templates: int, *, k: int = 1, p50: float = 1.0) -> dict[str, Any]:
    row = {"labels": list(growth.LABELS), "single": [{"p50_ms": p50}, {"p50_ms": 9.0}, {"p50_ms": p50}]}
    peer = {
        "name": "facegrid",
        "rows": [row | {"batch_per_second": [5.0, 7.0, 6.0]}],
        "resident": {"reopened_anonymous": 60.0, "reopened_mapped": 8.0},
        "build_seconds": 3.0,
    }
    return {"options": {"k": k}, "datasets": [{"name": "one", "templates": templates, "peers": [{"name": "x"}, peer]}]}


def test_growth_takes_medians_and_sorts_by_size(tmp_path: Path) -> None:
    found = growth.points([grown(1_000_000, p50=2.0), grown(100_000)], "one")
    assert [(p.templates, p.p50_ms[">=0.99"], p.batch["exact"], p.bytes) for p in found] == [
        (100_000, 1.0, 6.0, 68.0),
        (1_000_000, 2.0, 6.0, 68.0),
    ]
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra `bench`")
    assert all(path.stat().st_size > 1_000 for path in growth.draw("one", found, tmp_path))


def test_growth_of_two_kinds_of_search_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="one shape and one k"):
        growth.points([grown(100), grown(200, k=10)], "one")
    with pytest.raises(InvalidParameter, match="0 of shape 'twenty'"):
        growth.points([grown(100)], "twenty")
