"""What a shard host knows of itself, without asking anybody: for probes and metrics."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from coordinator.directories import shards_on
from coordinator.host import ShardHost


@dataclass(frozen=True, slots=True)
class HostState:
    """Numbers of replicas, each as it was told last. unconfigured: it has files, and no coordinator has told this
    process what it is. joining: it is being copied. catching_up: in the middle of it. faulty: it cannot be read, or
    refuses writes. open_shards: how many are open just now. disk_bytes, free_bytes: of the file system.
    """

    unconfigured: int
    joining: int
    in_sync: int
    primaries: int
    catching_up: int
    faulty: int
    open_shards: int
    disk_bytes: int
    free_bytes: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the host is not ready; () if it is."""
        counted = (
            (self.unconfigured, "wait for a configuration by the coordinator"),
            (self.joining, "are being copied"),
            (self.catching_up, "are catching up"),
        )
        return tuple(f"replicas that {what}: {count}" for count, what in counted if count)


def state_of(host: ShardHost, directory: Path) -> HostState:
    """The state of an open host whose files are in `directory`."""
    held = dict(host.held())
    configs = [replica.config for replica in held.values()]
    told = [config for config in configs if config is not None]
    without_config = {key for key, replica in held.items() if replica.config is None}
    usage = shutil.disk_usage(directory)
    return HostState(
        unconfigured=len(without_config | (set(shards_on(directory)) - held.keys())),
        joining=sum(host.name not in config.in_sync for config in told),
        in_sync=sum(host.name in config.in_sync for config in told),
        primaries=sum(host.name == config.primary for config in told),
        catching_up=sum(replica.lazy.is_catching_up for replica in held.values()),
        faulty=sum(bool(replica.fault) for replica in held.values()),
        open_shards=sum(replica.lazy.shard is not None for replica in held.values()),
        disk_bytes=usage.total,
        free_bytes=usage.free,
    )
