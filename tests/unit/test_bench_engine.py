"""The engine benchmark end to end on a tiny gallery: real processes, and every way in which a peer may drop out."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.engine import machine
from benchmarks.engine.command import execute, print_report
from benchmarks.engine.contender import Contender
from benchmarks.engine.datasets import MATED, STRANGERS, Dataset, synthetic
from benchmarks.engine.options import Options
from benchmarks.engine.peer import Budget, TooSlow
from benchmarks.engine.peers import PEERS
from benchmarks.engine.process import PeerFailed, PeerProcess
from benchmarks.engine.recall import mated_quality
from benchmarks.engine.results import DatasetResult, PeerResult, RunResult
from cluster.cli import run

N = 2_000
LIBRARY = {"face": "faceflash", "faiss": "faiss", "hnswlib": "hnswlib", "usearch": "usearch", "scann": "scann"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def dataset(work: Path) -> Dataset:
    return synthetic("one", N, 1, work)


def bad(name: str) -> str:
    return f"tests.unit.bench_peers:{name}"


def options(work: Path, **given: object) -> Options:
    tiny = Options(n=N, shapes=("one",), runs=2, seconds=0.001, work=work, charts=work / "charts")
    return replace(tiny, json=work / "result.json", **given)


@pytest.fixture(scope="module")
def found(work: Path, dataset: Dataset) -> tuple[RunResult, list[str]]:
    peers = {name: PEERS[name] for name in ("facegrid", "faiss-flat")}
    peers |= {"honest": bad("Honest"), "not-installed": bad("NotInstalled")}
    said: list[str] = []
    return execute(options(work, peers=peers), said.append), said


def peer_of(dataset: DatasetResult, name: str) -> PeerResult:
    return next(peer for peer in dataset.peers if peer.name == name)


def test_every_peer_is_measured_or_says_why_not(found: tuple[RunResult, list[str]]) -> None:
    (dataset,) = found[0].datasets
    has_faiss = importlib.util.find_spec("faiss") is not None
    expected = {"facegrid": "measured", "faiss-flat": "measured" if has_faiss else "missing", "honest": "measured"}
    assert {peer.name: peer.status for peer in dataset.peers} == {**expected, "not-installed": "missing"}
    missing = peer_of(dataset, "not-installed")
    assert missing.reason is not None
    assert "a_library_that_nobody_has" in missing.reason
    assert not missing.rows
    assert any("not-installed missing" in line for line in found[1])


def test_figures_have_the_shape_that_is_promised(found: tuple[RunResult, list[str]]) -> None:
    (dataset,) = found[0].datasets
    assert (dataset.templates, dataset.identities) == (N, N)
    assert (dataset.mated_probes, dataset.stranger_probes) == (MATED, STRANGERS)
    assert 0.5 < dataset.exact_rank1 <= 1
    for peer in dataset.peers:
        for row in peer.rows:
            shares = [row.mated.recall_1, row.mated.recall_10, row.mated.rank1, row.strangers.recall_1]
            assert all(share is not None and 0 <= share <= 1 for share in shares)
            assert len(row.single) == len(row.batch_per_second) == 2
            assert all(0 < timing.p50_ms <= timing.p99_ms and timing.queries >= 20 for timing in row.single)
            assert min(row.batch_per_second) > 0
            if "exact" in row.labels:
                assert (row.mated.recall_1, row.mated.recall_10) == (1, 1)
                assert row.mated.rank1 == dataset.exact_rank1
            for label in row.labels:
                assert not label.startswith(">=") or row.mated.recall_1 >= float(label[2:])


def test_sizes_are_measured(found: tuple[RunResult, list[str]]) -> None:
    (dataset,) = found[0].datasets
    honest = peer_of(dataset, "honest")
    float_bytes = 4 * dataset.dim
    assert honest.resident is not None
    # It holds every float in memory and on disk; the rest is the allocator's and the file system's.
    assert float_bytes <= honest.resident.reopened_anonymous < 2 * float_bytes
    assert honest.disk_bytes is not None
    assert float_bytes <= honest.disk_bytes < 1.1 * float_bytes


def test_ratios_pair_equal_recalls(found: tuple[RunResult, list[str]]) -> None:
    (dataset,) = found[0].datasets
    pairs = {(ratio.facegrid, ratio.peer_row) for ratio in dataset.ratios if ratio.peer == "honest"}
    assert pairs == {(">=0.99", ">=0.99"), (">=0.998", ">=0.998"), (">=0.99", "exact"), (">=0.998", "exact")}
    assert all(len(ratio.single) == len(ratio.batch) == 2 and ratio.single_median > 0 for ratio in dataset.ratios)


def test_the_document_and_the_charts_are_written(found: tuple[RunResult, list[str]], work: Path) -> None:
    document = json.loads((work / "result.json").read_text())
    assert document["format"] == 1
    assert document["machine"]["cores"] == machine.cores()
    assert document["options"]["seed"] == 1
    assert str(work) not in json.dumps(document), "no path of this machine"
    charts = sorted(path.name for path in (work / "charts").glob("*"))
    if importlib.util.find_spec("matplotlib") is None:
        assert any("no charts" in line and "matplotlib" in line for line in found[1])
    else:
        assert charts == [f"engine-2k-one-{what}.{kind}" for what in ("memory", "recall") for kind in ("png", "svg")]


def test_the_report_names_everybody(found: tuple[RunResult, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    print_report(found[0])
    shown = capsys.readouterr().out
    assert "honest" in shown
    assert "not-installed missing: ModuleNotFoundError" in shown


def test_the_command_writes_a_file_and_prints_the_same_document(
    work: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    file = work / "by-command.json"
    words = f"bench engine --n {N} --shape one --runs 1 --seconds 0.001 --peers faiss-flat --work {work}"
    assert run([*words.split(), "--charts", str(work / "more-charts"), "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(file.read_text())
    assert all("note" in json.loads(line) for line in err.splitlines())


def contender(name: str, dataset: Dataset, **given: object) -> Contender:
    return Contender(name.lower(), bad(name), dataset, options(dataset.folder.parent, **given), 1)


def searched(tried: Contender) -> PeerResult:
    """After as many phases as it takes to search."""
    tried.attempt(tried.build)
    tried.attempt(tried.start, 1)
    tried.attempt(tried.open)
    tried.attempt(tried.explore, [0.99])
    tried.attempt(tried.tune, [0.99])
    tried.remove()
    return tried.result


def test_a_peer_that_raises_or_dies_is_failed_and_the_run_goes_on(dataset: Dataset) -> None:
    raised, died = (searched(contender(name, dataset)) for name in ("Raises", "Dies"))
    assert (raised.status, died.status) == ("failed", "failed")
    assert raised.reason == "open: RuntimeError: its index is of another version"
    assert died.reason is not None
    assert "ended with 7" in died.reason
    assert "illegal instruction" in died.reason


def test_what_a_library_prints_does_not_spoil_the_replies(dataset: Dataset) -> None:
    result = searched(contender("Prints", dataset))
    assert result.status == "measured"
    assert result.rows[0].mated.recall_1 == 1


def test_a_build_beyond_its_budget_is_reported_with_what_it_would_take(dataset: Dataset) -> None:
    graph = searched(contender("SlowGraph", dataset))
    assert graph.status == "not built"
    assert graph.reason == "would take about 60 s (extrapolated from n=100, which took 3 s)"
    stopped = searched(contender("NeverEnds", dataset, max_build_seconds=1.0))
    assert stopped.status == "not built"
    assert stopped.reason is not None
    assert "extrapolated from n=250" in stopped.reason


def test_a_process_that_is_gone_is_named(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    with PeerProcess(bad("Honest"), dataset.folder, tmp_path / "index", 1) as process:
        process.hello()
        process.close()
        with pytest.raises((PeerFailed, ValueError)):
            process.ask("open")


def test_a_budget_gives_up_early_where_it_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(100.0, started=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: 9.0)
    budget.check(10, 1_000_000)
    monkeypatch.setattr("time.perf_counter", lambda: 30.0)
    budget.check(400_000, 1_000_000)
    with pytest.raises(TooSlow) as slow:
        budget.check(100_000, 1_000_000)
    assert slow.value.would_take == pytest.approx(30 * 10 * 6 / 5)
    monkeypatch.setattr("time.perf_counter", lambda: 101.0)
    with pytest.raises(TooSlow):
        budget.check(990_000, 1_000_000)
    budget.check(1_000_000, 1_000_000)


@pytest.mark.parametrize("name", PEERS)
def test_an_installed_peer_finds_nearly_everything_with_most_effort(
    name: str, dataset: Dataset, tmp_path: Path
) -> None:
    library = LIBRARY.get(name.partition("-")[0].replace("faceflash", "face"), "numpy")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed (it is in the extra `bench`)")
    folder = tmp_path / "index"
    folder.mkdir()
    with PeerProcess(PEERS[name], dataset.folder, folder, 1) as process:
        built = process.ask("build", max_seconds=60.0)
        opened = process.ask("open")
        last = [curve[-1] for curve in opened["curves"]] or list(opened["fixed"].values())
        answers = [np.array(process.ask("answers", probes="mated", setting=s, k=10)["rows"]) for s in last]
        alone = process.ask("latency", setting=last[-1], k=10, seconds=0.001)
    assert built["disk_bytes"] > 4 * 512 * N / 2
    assert max(mated_quality(dataset, rows).recall_1 for rows in answers) > 0.98
    assert alone["queries"] >= 20
