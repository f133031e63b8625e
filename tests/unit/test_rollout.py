"""Rollouts over several hosts: killed between any two steps, failing, resumed, rolled back, under load."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from coordinator import coordinator as coordinating
from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.merge import odd_ones_out
from coordinator.messages import (
    ActivateModel,
    ConfigureShards,
    ControlRequest,
    DiscardModels,
    InventoryRequest,
    ModelsReply,
    ModelsRequest,
    PrepareModel,
    Reply,
    SearchReply,
    SearchRequest,
    SetKeys,
)
from coordinator.rollout import Rollouts, by_host
from coordinator.router import Router
from coordinator.runtime import LocalRuntime
from coordinator.types import GalleryRoute, GallerySpec, RolloutStatus
from shard.errors import HostUnavailable, NotEnoughData, NotFound, UnknownGallery, WriteFailed
from shard.types import SearchParams
from tests.faces_like import batch_of, exact, unit_rows

DIM = 64
NAME = "acme/staff"
SPEC = GallerySpec(NAME, DIM, 4, 128, None)
ROWS = unit_rows(2_400, DIM, seed=1)
SOON_S = 60.0


class Killed(BaseException):
    """The coordinator's process ends here."""


class Wire(LocalRuntime):
    """A runtime that lets a test see every control request, and fail or end the process at any of them."""

    def __init__(self, hosts: Path) -> None:
        super().__init__(hosts, ["host-0", "host-1"])
        self.seen: list[tuple[str, ControlRequest]] = []
        self.before: Callable[[str, ControlRequest], None] = lambda host, request: None
        self.after: Callable[[str, ControlRequest], None] = lambda host, request: None

    def control(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        replies = []
        for host, request in calls:
            self.seen.append((host, request))
            self.before(host, request)
            replies += super().control([(host, request)])
            self.after(host, request)
        return replies

    def let_through(self) -> None:
        self.before = self.after = lambda host, request: None


class Home:
    """A home of two hosts, to have one gallery of four shards, and its coordinator, which may be opened again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.catalog = Catalog(directory / "catalog.db")
        self.runtime = Wire(directory / "hosts")
        self.router = Router(self.runtime)
        self.coordinator = self._coordinator()

    @classmethod
    def new(cls, directory: Path) -> Home:
        home = cls(directory)
        home.coordinator.create_gallery(SPEC)
        home.enroll(0, 1_200)
        return home

    def _coordinator(self) -> Coordinator:
        opened = Coordinator(self.catalog, self.runtime)
        opened._rollouts = Rollouts(self.catalog, self.runtime, attempts=2, pause_s=0.001)
        return opened

    def reopen(self, *, with_hosts: bool = True) -> None:
        """A new process: nothing in memory is left of the coordinator, nor of the hosts."""
        self.coordinator.close()
        if with_hosts:
            self.runtime.close()
            self.runtime = Wire(self.directory / "hosts")
            self.router = Router(self.runtime)
        self.catalog = Catalog(self.directory / "catalog.db")
        self.coordinator = self._coordinator()

    def close(self) -> None:
        self.runtime.close()
        self.coordinator.close()

    def enroll(self, start: int, stop: int) -> None:
        self.router.enroll(self.route, batch_of(ROWS[start:stop], first=start), skip_existing=False, new_ids=True)

    @property
    def route(self) -> GalleryRoute:
        return self.catalog.gallery(NAME)

    @property
    def status(self) -> RolloutStatus:
        (found,) = self.coordinator.rollouts()
        return found

    def active(self) -> set[str | None]:
        """The models that the shards are searched by."""
        found: set[str | None] = set()
        for host, shards in self.route.shards_by_host().items():
            (reply,) = LocalRuntime.control(self.runtime, [(host, ModelsRequest(self.route.gallery_id, shards))])
            assert isinstance(reply, ModelsReply)
            found.update(reply.model_ids)
        return found

    def model_files(self) -> set[str]:
        return {path.stem for path in self.directory.rglob("*.model")}

    def code_models(self) -> set[str]:
        return {path.stem.removeprefix("codes-") for path in self.directory.rglob("codes-*.rows")}

    def assert_answers(self, rows: int) -> None:
        probes = ROWS[: rows : rows // 40]
        ids = [f"t{i}" for i in range(rows)]
        for params in (SearchParams(1), SearchParams(1, exact=True)):
            found = self.router.search(self.route, probes, params).candidates
            assert list(found.template_ids) == exact(ids, ROWS[:rows], probes, 1)
            np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-6)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home.new(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def trained_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The closed home of `trained`."""
    home = Home.new(tmp_path_factory.mktemp("trained"))
    home.coordinator.train(NAME)
    home.router.flush(home.route)
    home.enroll(1_200, 1_400)
    home.close()
    return home.directory


@pytest.fixture
def trained(trained_files: Path, tmp_path: Path) -> Iterator[tuple[Home, str]]:
    """A home whose gallery has a model, and sealed segments."""
    home = Home(Path(shutil.copytree(trained_files, tmp_path / "trained")))
    if home.coordinator._tending is not None:  # it looks at the models of a home that is opened
        home.coordinator._tending.join()
    model_id = home.route.model_id
    assert model_id is not None
    yield home, model_id
    home.close()


def test_odd_ones_out() -> None:
    assert odd_ones_out([]) == []
    assert odd_ones_out([None, None]) == []
    assert odd_ones_out(["a", None, "a"]) == []
    assert odd_ones_out(["a", "b", "a", None]) == [1]
    assert odd_ones_out(["a", "b"]) == [0]
    assert odd_ones_out(["c", "b", "a", "a"]) == [0, 1]


def test_replicas_are_asked_by_host() -> None:
    pairs = [("b", 0), ("a", 2), ("a", 0), ("b", 1), ("c", 1), ("a", 0)]
    assert by_host(pairs) == {"a": (0, 2), "b": (0, 1), "c": (1,)}


def test_a_rollout_in_two_phases_with_its_progress(trained: tuple[Home, str]) -> None:
    home, old = trained
    told: list[tuple[str, int, int]] = []
    home.runtime.before = lambda host, request: told.append(
        (home.status.state, home.status.prepared, home.status.activated)
    )
    home.runtime.seen.clear()
    report = home.coordinator.train(NAME, seed=1)
    kinds = [type(r) for _, r in home.runtime.seen if isinstance(r, (PrepareModel, ActivateModel))]
    assert kinds == [PrepareModel] * 4 + [ActivateModel] * 2
    assert {prepared for state, prepared, _ in told if state == "preparing"} == {0, 2}
    status = home.status
    assert (status.gallery, status.model_id, status.previous_model_id) == (NAME, report.model_id, old)
    assert (status.state, status.replicas, status.prepared, status.activated) == ("done", 4, 4, 4)
    assert status.error is None
    assert status.started_at <= status.updated_at
    assert home.active() == {home.route.model_id} == {report.model_id}
    home.assert_answers(1_400)


def test_files_of_models_and_codes_go_when_nothing_needs_them(trained: tuple[Home, str]) -> None:
    home, first = trained
    second = home.coordinator.train(NAME, seed=1).model_id
    assert home.model_files() == {first, second}
    assert home.code_models() == {first, second}, "the way back is open"
    third = home.coordinator.train(NAME, seed=2).model_id
    assert home.model_files() == {second, third}
    assert home.code_models() == {second, third}
    home.coordinator.roll_back(NAME)
    assert home.model_files() == {second} == home.code_models()
    home.coordinator.drop_gallery(NAME)
    assert home.model_files() == set()
    assert home.coordinator.rollouts() == []


def test_another_gallerys_models_stay(trained: tuple[Home, str]) -> None:
    home, model = trained
    home.coordinator.create_gallery(GallerySpec("acme/other", DIM, 2, 128, None))
    other = home.catalog.gallery("acme/other")
    home.router.enroll(other, batch_of(unit_rows(1_000, DIM, seed=9)), skip_existing=False, new_ids=True)
    others = home.coordinator.train("acme/other").model_id
    assert home.model_files() == {model, others}
    home.coordinator.drop_gallery("acme/other")
    assert home.model_files() == {model}
    home.reopen()
    home.assert_answers(1_400)


@pytest.mark.parametrize("with_hosts", [False, True], ids=["coordinator", "all processes"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (PrepareModel, 0),
        (PrepareModel, 2),
        (PrepareModel, 3),
        (ActivateModel, 0),
        (ActivateModel, 1),
        (ModelsRequest, 1),
    ],
)
def test_killed_at_a_message_and_resumed(
    trained: tuple[Home, str], kind: type, number: int, moment: str, with_hosts: bool
) -> None:
    home, old = trained
    left = [number]

    def die(_host: str, request: ControlRequest) -> None:
        if isinstance(request, kind):
            left[0] -= 1
            if left[0] < 0:
                raise Killed

    setattr(home.runtime, moment, die)
    with pytest.raises(Killed):
        home.coordinator.train(NAME, seed=1)
    home.runtime.let_through()
    home.assert_answers(1_400)
    home.reopen(with_hosts=with_hosts)
    home.assert_answers(1_400)
    home.coordinator.resume_rollouts()
    assert home.status.state == "done"
    assert home.active() == {home.status.model_id} == {home.route.model_id} != {old}
    home.assert_answers(1_400)


STEPS = {
    "train": ("begin", "progress", "decide", "finish"),
    "fail": ("begin", "turn_back", "finish"),
    "roll back": ("turn_back", "progress", "finish"),
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("verb", "step"), [(verb, step) for verb, steps in STEPS.items() for step in steps])
def test_killed_at_a_step_of_the_catalog(
    trained: tuple[Home, str], monkeypatch: pytest.MonkeyPatch, verb: str, step: str, moment: str
) -> None:
    """Whatever was decided last is what the next process brings about; an undecided rollout is not begun."""
    home, old = trained
    new = None
    if verb == "roll back":
        new = home.coordinator.train(NAME, seed=1).model_id
    records = home.coordinator._rollouts.records
    real = getattr(records, step)

    def die(*args: object, **kwargs: object) -> None:
        if moment == "after":
            real(*args, **kwargs)
        raise Killed

    def refuse(host: str, request: ControlRequest) -> None:
        if verb == "fail" and isinstance(request, PrepareModel) and host == "host-1":
            raise WriteFailed("no space left on device")

    home.runtime.before = refuse
    with monkeypatch.context() as patch:
        patch.setattr(records, step, die)
        with pytest.raises(Killed):
            home.coordinator.roll_back(NAME) if verb == "roll back" else home.coordinator.train(NAME, seed=1)
    home.runtime.let_through()
    decided = home.route.model_id
    home.reopen()
    home.coordinator.resume_rollouts()
    home.assert_answers(1_400)
    status = home.status
    assert status.state in ("done", "rolled_back")
    assert home.active() == {home.route.model_id}
    if verb == "train" and (step, moment) != ("begin", "before"):
        assert status.state == "done"
        assert home.active() != {old}
    if verb == "roll back" and (step, moment) == ("turn_back", "before"):
        assert home.active() == {new}
    elif verb == "roll back":
        assert (status.state, home.active(), decided) == ("rolled_back", {old}, old)


def test_a_host_that_cannot_prepare_leaves_the_gallery_as_it_was(trained: tuple[Home, str]) -> None:
    home, old = trained
    asked: list[str] = []

    def refuse(host: str, request: ControlRequest) -> None:
        if isinstance(request, PrepareModel) and host == "host-1":
            asked.append(host)
            raise HostUnavailable("host-1 does not answer")

    home.runtime.before = refuse
    with pytest.raises(HostUnavailable, match="host-1"):
        home.coordinator.train(NAME, seed=1)
    assert len(asked) == 2, "attempts"
    home.runtime.let_through()
    assert home.status.state == "rolled_back"
    assert home.status.error == "host_unavailable: host-1 does not answer"
    assert home.active() == {home.route.model_id} == {old}
    assert home.model_files() == {old} == home.code_models()
    home.assert_answers(1_400)
    assert home.coordinator.train_if_due(NAME) is None
    assert home.coordinator.train(NAME, seed=1).model_id != old


def test_a_host_that_is_away_while_activating_is_brought_along_later(trained: tuple[Home, str]) -> None:
    home, old = trained

    def away(host: str, request: ControlRequest) -> None:
        if host == "host-1" and home.status.state == "activating":
            raise HostUnavailable("host-1 does not answer")

    home.runtime.before = away
    with pytest.raises(HostUnavailable):
        home.coordinator.train(NAME, seed=1)
    home.runtime.let_through()
    status = home.status
    assert (status.state, status.activated, status.replicas) == ("activating", 2, 4)
    assert status.error is not None
    assert home.active() == {old, status.model_id}
    home.assert_answers(1_400)
    home.reopen()
    home.coordinator.resume_rollouts()
    assert (home.status.state, home.status.error) == ("done", None)
    assert home.active() == {status.model_id}


def test_replicas_that_missed_a_rollout_are_brought_to_the_catalogs_model(trained: tuple[Home, str]) -> None:
    """As a host finds itself that was away for a whole rollout, its model file included."""
    home, old = trained
    new = home.coordinator.train(NAME, seed=1).model_id
    shards = home.route.shards_by_host()["host-1"]
    for message in (
        ActivateModel(home.route.gallery_id, shards, old),
        DiscardModels(home.route.gallery_id, shards, (old,)),
    ):
        home.runtime.control([("host-1", message)])
    assert home.active() == {old, new}
    home.reopen()
    home.coordinator.resume_rollouts()
    assert home.active() == {new}
    home.assert_answers(1_400)


def test_back_to_the_model_before_and_to_none(trained: tuple[Home, str]) -> None:
    home, old = trained
    new = home.coordinator.train(NAME, seed=1).model_id
    status = home.coordinator.roll_back(NAME)
    assert (status.state, status.model_id, status.previous_model_id) == ("rolled_back", new, old)
    assert home.active() == {home.route.model_id} == {old}
    home.assert_answers(1_400)
    with pytest.raises(NotFound, match="no rollout to roll back"):
        home.coordinator.roll_back(NAME)
    assert home.coordinator.train_if_due(NAME) is None, "a model that was taken back is not trained again by itself"


def test_a_first_model_rolls_back_to_exact_search(home: Home) -> None:
    with pytest.raises(NotFound, match="it had none"):
        home.coordinator.roll_back(NAME)
    home.coordinator.train(NAME)
    home.coordinator.roll_back(NAME)
    assert home.active() == {home.route.model_id} == {None}
    assert home.model_files() == set() == home.code_models()
    home.assert_answers(1_200)
    assert home.coordinator.train_if_due(NAME) is None
    home.reopen()
    assert home.active() == {None}
    assert home.coordinator.train(NAME).model_id in home.active()


def test_a_gallery_dropped_during_its_rollout_is_gone(trained: tuple[Home, str]) -> None:
    home, _ = trained

    def drop(_host: str, request: ControlRequest) -> None:
        if isinstance(request, PrepareModel):
            home.runtime.let_through()
            home.coordinator.drop_gallery(NAME)

    home.runtime.before = drop
    with pytest.raises(UnknownGallery):
        home.coordinator.train(NAME, seed=1)
    assert home.coordinator.rollouts() == []
    assert home.model_files() == set()
    home.coordinator.create_gallery(SPEC)
    with pytest.raises(NotEnoughData):
        home.coordinator.train(NAME)


def test_opening_does_not_wait_for_a_rollout(trained: tuple[Home, str]) -> None:
    home, _ = trained

    def die(_host: str, request: ControlRequest) -> None:
        if isinstance(request, PrepareModel):
            raise Killed

    home.runtime.before = die
    with pytest.raises(Killed):
        home.coordinator.train(NAME, seed=1)
    home.runtime.let_through()
    gate = threading.Event()
    home.runtime.before = lambda host, request: (
        None if isinstance(request, (ConfigureShards, InventoryRequest, ModelsRequest, SetKeys)) else assert_set(gate)
    )
    home.coordinator.close()
    home.catalog = Catalog(home.directory / "catalog.db")
    home.coordinator = Coordinator(home.catalog, home.runtime)
    home.assert_answers(1_400)
    assert home.status.state == "preparing"
    gate.set()
    wait_until(lambda: home.status.state == "done")


def assert_set(event: threading.Event) -> None:
    assert event.wait(SOON_S)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_rollouts_under_load_keep_recall_and_one_model_a_host(trained: tuple[Home, str]) -> None:
    """Searches and writes go on while models come and go; every answer has the true best with its true score."""
    home, _ = trained
    probes, wanted = ROWS[:1_200:30], [(f"t{i}",) for i in range(0, 1_200, 30)]
    stop, failures, answers = threading.Event(), [], [0, 0]
    route = home.route

    def search() -> None:
        found = home.router.search(route, probes, SearchParams(1)).candidates
        assert list(found.template_ids) == wanted
        np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-6)

    def ask_hosts() -> None:
        replies = []
        for host, shards in route.shards_by_host().items():
            request = SearchRequest(route.gallery_id, shards, probes, SearchParams(1), route.epochs_of(shards))
            reply = home.runtime.submit(host, request, deadline=time.monotonic() + SOON_S).result()
            assert isinstance(reply, SearchReply)
            replies.append(reply.model_id)
        assert None not in replies
        assert len(odd_ones_out(replies)) <= 1

    def loop(number: int, ask: Callable[[], None]) -> None:
        try:
            while not stop.is_set() or not answers[number]:
                ask()
                answers[number] += 1
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=loop, args=pair) for pair in enumerate((search, ask_hosts))]
    for thread in threads:
        thread.start()
    try:
        for turn in range(4):
            home.coordinator.train(NAME, seed=turn + 1)
            home.enroll(1_400 + turn * 100, 1_500 + turn * 100)
            if turn % 2:
                home.coordinator.roll_back(NAME)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    home.assert_answers(1_800)


def test_templates_of_another_kind_make_a_training_due(home: Home) -> None:
    home.enroll(1_200, 1_400)
    home.coordinator.train(NAME)
    assert home.coordinator.drift(NAME) is None, "nothing was enrolled since"
    home.enroll(1_400, 2_000)
    alike = home.coordinator.drift(NAME)
    assert alike is not None
    assert alike.rows == 600
    assert alike.score < 0.5
    assert home.coordinator.train_if_due(NAME) is None
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(DIM, DIM)))[0].astype(np.float32)
    others = ROWS[:1_000] @ turn
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    home.router.enroll(home.route, batch_of(others, prefix="other"), skip_existing=False, new_ids=True)
    unlike = home.coordinator.drift(NAME)
    assert unlike is not None
    assert unlike.score > 1.5
    report = home.coordinator.train_if_due(NAME)
    assert report is not None
    assert report.drift == unlike
    assert home.coordinator.train_if_due(NAME) is None


def test_drift_is_looked_at_only_after_changes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    real = coordinating.draw_recent

    def counted(*args: object, **kwargs: object) -> object:
        looks.append(1)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    home.coordinator.train(NAME)
    monkeypatch.setattr(coordinating, "draw_recent", counted)
    for start in range(1_200, 1_900, 100):
        home.enroll(start, start + 100)
        home.coordinator.train_if_due(NAME)
    assert len(looks) == 2
