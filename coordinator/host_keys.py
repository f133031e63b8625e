"""`HostKeys`: the data keys that a shard host was given, in memory alone."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.directories import tenant_of
from shard.errors import KeyUnavailable, StaleRoute


class HostKeys:
    """Keys by tenant id, as the coordinator has given them last. Thread-safe: they are replaced as a whole."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._keys: Mapping[str, bytes] | None = None

    @property
    def were_given(self) -> bool:
        """Whether the coordinator has given any, be it none at all, since the host started."""
        return self._keys is not None

    def give(self, keys: Mapping[str, bytes]) -> set[str]:
        """These are all keys from now on; the tenants of those that are not there any more."""
        before, self._keys = self._keys or {}, dict(keys)
        return before.keys() - keys.keys()

    def of(self, gallery_id: str) -> bytes | None:
        """The key of a gallery, None if none was given."""
        return (self._keys or {}).get(tenant_of(gallery_id) or "")

    def missing(self, gallery_id: str) -> KeyUnavailable | StaleRoute:
        """The error where an encrypted shard's key was not given; one that may come is worth asking again for."""
        if self._keys is None:
            return StaleRoute(f"shard host {self._host} has just started and was not given any keys yet")
        return KeyUnavailable(
            f"shard host {self._host}: gallery {gallery_id} is encrypted and its key is not to be had"
        )
