"""Template ids that writes of this process have named: an id is unique in its gallery, so two writers take turns."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator


class TakenIds:
    """Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ids: dict[str, set[str]] = {}

    @contextlib.contextmanager
    def reserve(self, gallery_id: str, template_ids: Collection[str]) -> Iterator[None]:
        """Wait until nobody has one of the ids, and have them."""
        with self._changed:
            taken = self._ids.setdefault(gallery_id, set())
            self._changed.wait_for(lambda: taken.isdisjoint(template_ids))
            taken.update(template_ids)
        try:
            yield
        finally:
            with self._changed:
                taken.difference_update(template_ids)
                self._changed.notify_all()
