"""Damaged files of a shard, and what it answers then. Tasks of forked children: some damage might end the process.

An answer is right if it is that of the undamaged shard to the last bit; a named error (StorageError) is as good. Where
the newest records are damaged, one copy cannot know that they were there: what remains is an earlier state, whole.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shard.errors import FacegridError, StorageError
from shard.search import search_shards
from shard.shard import Shard
from shard.types import SearchParams
from tests.crash.history import History, Operation
from tests.crash.workload import Driver, Say, _floats, differences, states

SEGMENT_ROWS = 512
"""128 KiB of floats."""
CASE_S = 30


def _enroll(prefix: str, n: int, seed: int) -> Operation:
    people = tuple(None if i % 3 == 0 else f"p{i % 40}" for i in range(n))
    return Operation("enroll", tuple(f"{prefix}{i}" for i in range(n)), people, seed=seed)


SETTLED = (
    Operation("create"),
    _enroll("a", 600, 1),
    Operation("activate", ("0",)),
    Operation("delete", tuple(f"a{i}" for i in range(0, 600, 50))),
    _enroll("b", 500, 2),
    Operation("reopen"),
)
NEWEST = (_enroll("c", 5, 3), Operation("delete", ("a1", "b2")), _enroll("d", 9, 4))
"""These stand in the log alone if the process is killed after them."""


def make(say: Say, *, directory: str, saved: str, is_killed: bool) -> None:
    """A shard of two sealed segments, with codes, and a tail. Killed, its log holds NEWEST; else it has none."""
    driver = Driver(Path(directory), Path(saved), SEGMENT_ROWS)
    for operation in (*SETTLED, *NEWEST):
        driver.carry_out(operation)
    if is_killed:
        os.kill(os.getpid(), signal.SIGKILL)
    driver.close()


def try_all(say: Say, *, directory: str, saved: str, cases: Sequence[dict[str, Any]], first: int) -> None:
    """Each case from `first` on is applied to a copy, which is opened and asked everything. Says each outcome."""
    expected = states((*SETTLED, *NEWEST))
    work = Path(f"{directory}-damaged")
    sound = _asked(Path(directory), work, Path(saved), lambda _: None, expected[-1])
    for number in range(first, len(cases)):
        signal.alarm(CASE_S)
        case = cases[number]
        say(trying=number)
        if case["may_be_earlier"]:
            outcome = _state_of(Path(directory), work, Path(saved), case, expected[len(SETTLED) :])
        else:
            found = _asked(Path(directory), work, Path(saved), lambda copy, case=case: apply(copy, case), expected[-1])
            outcome = _judged(found, sound)
        say(case=number, outcome=outcome[0], detail=outcome[1])
    shutil.rmtree(work, ignore_errors=True)


def apply(directory: Path, case: dict[str, Any]) -> None:
    """Flip a bit of a file, cut it, or remove it."""
    path = directory / case["file"]
    if case["kind"] == "remove":
        path.unlink()
    elif case["kind"] == "cut":
        os.truncate(path, case["at"])
    else:
        with path.open("r+b") as file:
            file.seek(case["at"])
            value = file.read(1)[0]
            file.seek(case["at"])
            file.write(bytes([value ^ (1 << case["bit"])]))


def _copied(directory: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(directory, work)


def _asked(directory: Path, work: Path, saved: Path, damage: Callable[[Path], None], state: History) -> dict[str, Any]:
    """Verb to its answer, or to the error that it raised."""
    _copied(directory, work)
    damage(work)
    driver = Driver(work, saved, SEGMENT_ROWS)
    answers: dict[str, Any] = {}
    try:
        shard = driver.open()
    except BaseException as error:  # noqa: BLE001  (a panic of the extension is one)
        return {"open": error}
    for verb, ask in _questions(shard, state).items():
        try:
            answers[verb] = ask()
        except BaseException as error:  # noqa: BLE001
            answers[verb] = error
    try:
        driver.close()
    except BaseException as error:  # noqa: BLE001
        answers["close"] = error
    return answers


def _questions(shard: Shard, state: History) -> dict[str, Callable[[], Any]]:
    """In order: reads, deletions, and reads again. Every template is a probe, so that every row is in some answer."""
    ids = list(state.templates)
    probes = _floats(state.templates.values())
    people = ("p1", "p4", "p38")

    def search(**options: Any) -> Callable[[], Any]:
        def ask() -> Any:
            found = search_shards([shard], probes, SearchParams(k=3, **options))
            return found.template_ids, found.identities, found.scores.tobytes()

        return ask

    reads: dict[str, Callable[[], Any]] = {
        "len": lambda: len(shard),
        "existing": lambda: sorted(shard.existing([*ids, "a0", "a50", "nobody"])),
        "records": lambda: shard.records([*ids, "a0", "a50", "nobody"]),
        "identities": lambda: shard.identities("", 1_000),
        "exact search": search(exact=True),
        "search": search(),
        "search of identities": search(exact=True, identities=people),
    }
    writes: dict[str, Callable[[], Any]] = {
        "delete": lambda: shard.delete(template_ids=[*ids[::17], "nobody"]),
        "delete by identity": lambda: shard.delete(identities=["p2", "p7"]),
    }
    again = ("len", "existing", "records", "identities", "exact search")
    return {**reads, **writes, **{f"{verb} after deleting": reads[verb] for verb in again}}


def _judged(found: dict[str, Any], sound: dict[str, Any]) -> tuple[str, str]:
    """(right | named | WRONG | UNNAMED, what it was)."""
    named = ""
    gone = False  # a deletion failed, so it is not known here what the answers after it should be
    for verb, answer in found.items():
        if isinstance(answer, FacegridError):
            if not isinstance(answer, StorageError):
                return "UNNAMED", f"{verb}: {answer!r}"
            gone = gone or verb.startswith("delete")
            named = f"{verb}: {answer}"
        elif isinstance(answer, BaseException):
            return "UNNAMED", f"{verb}: {answer!r}"
        elif gone and (verb.endswith("after deleting") or verb == "delete by identity"):
            continue
        elif verb not in sound or answer != sound[verb]:
            return "WRONG", f"{verb}: {_first_difference(answer, sound.get(verb))}"
    return ("named", named) if named else ("right", "")


def _first_difference(found: Any, expected: Any) -> str:
    if isinstance(found, list) and isinstance(expected, list):
        pairs = zip([*found, None], [*expected, None], strict=False)
        return next((f"{a!r}, not {b!r}" for a, b in pairs if a != b), f"{len(found)}, not {len(expected)}")[:200]
    if isinstance(found, tuple):
        ids, people, scores = (
            sum(a != b for a, b in zip(x, y, strict=False)) for x, y in zip(found, expected, strict=True)
        )
        return f"{ids} lists of ids differ, {people} of identities, {scores} bytes of scores"
    return f"{found!r}, not {expected!r}"[:200]


def _state_of(
    directory: Path, work: Path, saved: Path, case: dict[str, Any], allowed: Sequence[History]
) -> tuple[str, str]:
    """Which of the states the damaged shard is in, oldest first, wholly."""
    _copied(directory, work)
    apply(work, case)
    driver = Driver(work, saved, SEGMENT_ROWS)
    try:
        shard = driver.open()
        # No two of the states are of one size.
        lost = next((n for n, state in enumerate(reversed(allowed)) if len(state.templates) == len(shard)), 0)
        wrong = differences(shard, allowed[-1 - lost])
        driver.close()
    except StorageError as error:
        return "named", str(error)
    except BaseException as error:  # noqa: BLE001
        return "UNNAMED", repr(error)
    if wrong:
        return "WRONG", f"no state: {wrong[:2]}"
    return ("earlier", f"{lost} operations are lost") if lost else ("right", "")


def random_bits(rng: np.random.Generator, places: Sequence[int]) -> list[tuple[int, int]]:
    """(byte, bit) with a bit drawn for each byte."""
    return list(zip(places, rng.integers(0, 8, len(places)).tolist(), strict=True))
