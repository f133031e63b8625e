"""`Sweeper`: while a home is open, removes what jobs hold of templates: in time, or when their gallery is dropped.

It looks once when the home is opened and then every minute. A batch at which an apply was interrupted is completed on
the way: templates that were to get another identity may be missing until then.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.dedup.apply import settle
from cluster.dedup.apply_journal import ApplyJournal
from cluster.dedup.apply_lock import only_apply
from cluster.dedup.result_files import DedupResult
from cluster.dedup.retention import INPUT, is_due, remove_copies
from coordinator.job_rows import STALE_S
from coordinator.job_types import JobRecord, JobState
from coordinator.jobs import JOB_ID
from shard.errors import FacegridError, InvalidParameter, ResultBusy, UnknownGallery, UnknownJob

if TYPE_CHECKING:
    from cluster.api import Cluster

PAUSE_S = 60.0
_LOG = logging.getLogger(__name__)


def sweep(cluster: Cluster, jobs_directory: Path, *, now: float | None = None) -> int:
    """Remove what is due of every job below the directory; of how many. One that fails is logged and left for later.

    now: unix seconds, for tests.
    """
    swept = 0
    for directory in sorted(path for path in jobs_directory.glob("*") if JOB_ID.fullmatch(path.name)):
        try:
            swept += _sweep(cluster, cluster.coordinator.jobs.get(directory.name), directory, now)
        except (ResultBusy, UnknownJob):  # somebody is at it; it was deleted, and its directory goes with it
            continue
        except (FacegridError, FileNotFoundError):  # the job may be deleted at this moment
            _LOG.exception("what job %s holds of templates could not be removed", directory.name)
    if swept:
        cluster.coordinator.jobs.sweep()  # snapshots that are gone are forgotten
    return swept


def _sweep(cluster: Cluster, record: JobRecord, directory: Path, now: float | None) -> bool:
    hours, is_gone = cluster.settings.erasure_hours, _is_gone(cluster, record, directory)
    if any(journal.is_interrupted for journal in ApplyJournal.all(directory)):
        with contextlib.suppress(UnknownGallery, InvalidParameter):  # the gallery is gone, and its templates with it
            settle(cluster, DedupResult.open(directory))
    if not is_due(directory, hours, now=now, is_gone=is_gone):
        return False
    with only_apply(directory, wait_s=0):
        removed = remove_copies(directory, hours, now=now, is_gone=is_gone, is_running=_is_running(record))
    return removed.is_any


def _is_running(record: JobRecord) -> bool:
    """Whether somebody has it who lives."""
    has_owner = record.state in (JobState.RUNNING, JobState.CANCELLING)
    return has_owner and record.heartbeat_at is not None and time.time() - record.heartbeat_at <= STALE_S


def _is_gone(cluster: Cluster, record: JobRecord, directory: Path) -> bool:
    """Whether a gallery that the job read was dropped, be there another of its name or not."""
    names = {record.gallery, record.parameters.get("other")} - {None}
    try:
        there = {cluster.coordinator.gallery(str(name)).gallery_id for name in names}
    except UnknownGallery:
        return True
    store = str((directory / INPUT).absolute())
    read = {made.gallery_id for made in cluster.coordinator.snapshots.made() if made.store == store}
    return not {record.gallery_id, *read} <= there


class Sweeper:
    """The thread that sweeps, from the beginning to `close`."""

    def __init__(self, cluster: Cluster, jobs_directory: Path) -> None:
        self._cluster, self._directory = cluster, jobs_directory
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="facegrid-dedup-sweeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for what is under way. Idempotent."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                sweep(self._cluster, self._directory)
            except Exception:  # noqa: BLE001 - a bug over one job must not end the looks
                _LOG.exception("jobs could not be looked at for what they hold of templates")
            if self._closing.wait(PAUSE_S):
                return
