"""Template ids that writes under way have named: an id is unique in its gallery, so two writers of one take turns."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Collection, Iterator
from typing import Protocol

from shard.errors import DeadlineExceeded
from shard.keys import template_keys
from shard.types import KeyArray

PAUSE_S = 0.005, 0.2
"""First and longest pause before a claim that another process has is tried again."""
WAIT_S = 60.0
"""How long another process may have an id."""


class IdClaims(Protocol):
    """By whom processes take turns; see `coordinator.claims.Claims`."""

    def take(self, gallery_id: str, token: bytes, keys: KeyArray) -> bool:
        """Claim ids by their keys, all or none."""

    def give_back(self, gallery_id: str, token: bytes) -> None:
        """End a claim."""


class TakenIds:
    """Ids taken by this process, and claimed from others where there are any. Thread-safe."""

    def __init__(self, claims: IdClaims | None) -> None:
        """claims: None where no other process enrolls."""
        self._claims = claims
        self._changed = threading.Condition()
        self._ids: dict[str, set[str]] = {}

    @contextlib.contextmanager
    def reserve(self, gallery_id: str, template_ids: Collection[str]) -> Iterator[None]:
        """Wait until nobody has one of the ids, and have them. DeadlineExceeded if another process keeps one."""
        with self._changed:
            taken = self._ids.setdefault(gallery_id, set())
            self._changed.wait_for(lambda: taken.isdisjoint(template_ids))
            taken.update(template_ids)
        try:
            with self._claimed(gallery_id, template_ids):
                yield
        finally:
            with self._changed:
                taken.difference_update(template_ids)
                self._changed.notify_all()

    @contextlib.contextmanager
    def _claimed(self, gallery_id: str, template_ids: Collection[str]) -> Iterator[None]:
        if self._claims is None or not template_ids:
            yield
            return
        token = secrets.token_bytes(16)
        keys = template_keys(list(template_ids))
        until = time.monotonic() + WAIT_S
        pause_s = PAUSE_S[0]
        while not self._claims.take(gallery_id, token, keys):
            if time.monotonic() >= until:
                raise DeadlineExceeded(
                    f"another process is writing one of these template ids for more than {WAIT_S:g} s"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S[1])
        try:
            yield
        finally:
            self._claims.give_back(gallery_id, token)
