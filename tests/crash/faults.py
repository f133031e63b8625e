"""Faults of the disk as data: a failpoint (`shard.failpoints`) or a system call (`faults.c`), armed in one child."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shard import failpoints

_PAGE = 4096
SOURCE = Path(__file__).with_name("faults.c")
SyscallAction = Literal["kill", "eio", "enospc", "short", "erofs", "lose power"]
_ACTIONS = {"kill": 1, "eio": 2, "enospc": 2, "erofs": 2, "short": 3, "lose power": 4}
_ERRNO = {"eio": errno.EIO, "enospc": errno.ENOSPC, "short": errno.ENOSPC, "erofs": errno.EROFS}


@dataclass(frozen=True)
class Fault:
    """What happens in one case.

    point: a failpoint, else it is a system call. action: what happens at the `at`-th hit or call; "count" only counts.
    is_sticky: system calls fail from then on, until the workload disarms the fault. then: what follows a failure:
    "kill" at once, or "lose power" when the first operation after it was acknowledged.
    """

    action: str = "count"
    at: int = 0
    point: str | None = None
    is_sticky: bool = False
    then: str | None = None


def build_shim(directory: Path) -> Path:
    """Compile the library to preload. Building Facegrid needs a C compiler too: Rust links with it."""
    library = directory / "faults.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-lpthread"], check=True)
    return library


class Shim:
    """The preloaded library, in a process that has it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_log.restype = ctypes.c_char_p

    def arm(self, directory: str, fault: Fault) -> None:
        """Watch all calls below the directory from now on, and let the fault happen in one of them."""
        action = _ACTIONS.get(fault.action, 0)
        error = _ERRNO.get(fault.action, 0)
        arguments = (ctypes.c_long(fault.at), action, error, int(fault.is_sticky))
        self._library.faults_arm(directory.encode(), *arguments)

    def disarm(self) -> None:
        """Nothing fails from now on; what is not synced is still known."""
        self._library.faults_disarm()

    def reset(self) -> None:
        """Forget what was not synced: another case begins."""
        self._library.faults_reset()

    def has_acted(self) -> bool:
        return bool(self._library.faults_acted())

    def calls(self) -> list[str]:
        """Every call since it was armed: its name and the path below the directory."""
        return str(self._library.faults_log().decode()).splitlines()

    def lose_power(self) -> None:
        """Undo what is not synced, and kill this process."""
        self._library.faults_lose_power()


@contextlib.contextmanager
def armed(directory: str, fault: Fault, say: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """A block in which the fault may happen; gives what ends it early. Says counts, or whether it happened."""
    shim = Shim() if fault.point is None else None
    ended: list[Any] = []

    def disarm() -> None:
        if ended:
            return
        ended.append(True)
        acted = not failpoints.is_armed() if shim is None else shim.has_acted()
        say(**({"calls": shim.calls()} if shim and fault.action == "count" else {"acted": acted}))
        failpoints.disarm()
        if shim is not None:
            shim.disarm()

    if shim is not None:
        shim.arm(directory, fault)
    elif fault.action == "count":
        hits = failpoints.count()
    else:
        failpoints.arm(str(fault.point), fault.action, fault.at)  # type: ignore[arg-type]
    yield disarm
    if shim is None and fault.action == "count":
        say(hits=dict(hits))
    disarm()


def lose_pages(say: Callable[..., None], *, directory: str) -> None:
    """A task of a child: six pages of one file, written and synced in different ways, and then the power fails."""
    shim, path = Shim(), Path(directory) / "pages"
    path.parent.mkdir()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def write(pages: str, byte: bytes) -> None:
        for page in pages:
            os.pwrite(fd, byte * _PAGE, int(page) * _PAGE)

    shim.reset()
    shim.arm(directory, Fault())
    write("0123", b"a")
    os.fsync(fd)
    write("12", b"b")
    shim.arm(directory, Fault("eio", 1))
    with contextlib.suppress(OSError):
        os.fsync(fd)
    shim.disarm()
    write("2", b"c")  # dirty again, unlike page 1
    write("34", b"d")
    os.fsync(fd)
    write("05", b"e")
    say(seen=[os.pread(fd, 1, page * _PAGE).decode() for page in range(6)])
    shim.lose_power()
