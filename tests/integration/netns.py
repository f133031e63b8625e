"""Network namespaces, one for each shard host, on a switch of their own; wires that can be cut one way or both ways.

Needs root and iproute2. A cut one way sends the packets to a network card that nobody has, so that they get lost
without a word; a cut both ways from everybody pulls the cable at the switch. Nothing else of the machine is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import pytest

WORLD = "world"
"""Where the test, its coordinator and its router are: the namespace of this process."""
NOBODY = "02:00:00:00:00:01"


class Net:
    """Places by name: each host, and WORLD. Use `open_net`."""

    def __init__(self, hosts: Sequence[str], undo: contextlib.ExitStack) -> None:
        self.places = (*hosts, WORLD)
        self._prefix = f"fg{os.getpid()}"
        self._subnet = f"198.18.{os.getpid() % 250 + 1}"
        self._cuts: set[tuple[str, str]] = set()
        self._pulled: set[str] = set()
        switch = self._namespace("switch")
        for name in (*hosts, "switch"):
            ip("netns", "add", self._namespace(name))
            undo.callback(ip, "netns", "del", self._namespace(name))
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for place in self.places:
            self._plug_in(place, switch, undo)

    def _plug_in(self, place: str, switch: str, undo: contextlib.ExitStack) -> None:
        ip("link", "add", f"{self._prefix}x", "type", "veth", "peer", "name", f"{self._prefix}y")
        ip("link", "set", f"{self._prefix}y", "netns", switch)
        ip("-n", switch, "link", "set", f"{self._prefix}y", "name", f"to-{place}")
        ip("-n", switch, "link", "set", f"to-{place}", "master", "br0", "up")
        ip("link", "set", f"{self._prefix}x", "name", self._card(place))
        if place == WORLD:
            undo.callback(ip, "link", "del", self._card(place))
        else:
            ip("link", "set", self._card(place), "netns", self._namespace(place))
        ip(*self._in(place), "addr", "add", f"{self.address(place)}/24", "dev", self._card(place))
        ip(*self._in(place), "link", "set", self._card(place), "up")
        if place != WORLD:
            ip(*self._in(place), "link", "set", "lo", "up")

    def address(self, place: str) -> str:
        """IPv4 address of a place."""
        return f"{self._subnet}.{self.places.index(place) + 1}"

    def command(self, place: str) -> list[str]:
        """What a command line begins with that is to run there."""
        return ["ip", "netns", "exec", self._namespace(place)]

    def cut(self, start: str, end: str) -> None:
        """What `start` sends to `end` gets lost from now on."""
        if (start, end) not in self._cuts:
            self._cuts.add((start, end))
            where = (self.address(end), "lladdr", NOBODY, "dev", self._card(start), "nud", "permanent")
            ip(*self._in(start), "neigh", "replace", *where)

    def pull(self, host: str) -> None:
        """Take a host's cable out of the switch."""
        self._pulled.add(host)
        ip("-n", self._namespace("switch"), "link", "set", f"to-{host}", "down")

    def reaches(self, start: str, end: str) -> bool:
        """Whether a packet gets through."""
        return (start, end) not in self._cuts and not self._pulled & {start, end}

    def heal(self) -> None:
        """Everybody reaches everybody."""
        while self._cuts:
            start, end = self._cuts.pop()
            ip(*self._in(start), "neigh", "del", self.address(end), "dev", self._card(start))
        while self._pulled:
            ip("-n", self._namespace("switch"), "link", "set", f"to-{self._pulled.pop()}", "up")

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _card(self, place: str) -> str:
        return f"{self._prefix}w" if place == WORLD else "e0"

    def _in(self, place: str) -> tuple[str, ...]:
        return () if place == WORLD else ("-n", self._namespace(place))


def ip(*words: str) -> None:
    """Run `ip`; what it says on failure is in the error."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextlib.contextmanager
def open_net(hosts: Sequence[str]) -> Iterator[Net]:
    """Build it, and leave nothing of it. Skips the test, with the reason, where that is not permitted."""
    if shutil.which("ip") is None:
        pytest.skip("the command `ip` is missing: install iproute2")
    try:
        ip("netns", "add", f"fg{os.getpid()}-probe")
        ip("netns", "del", f"fg{os.getpid()}-probe")
    except OSError as error:
        pytest.skip(f"network namespaces are not permitted here (root is needed): {error}")
    with contextlib.ExitStack() as undo:
        yield Net(hosts, undo)
