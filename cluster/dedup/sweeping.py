"""`Sweeper`: while a home is open, removes what finished dedup jobs hold of templates when its time has come.

It looks once when the home is opened and then every minute. A batch at which an apply was interrupted is completed on
the way: templates that were to get another identity may be missing until then.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.dedup.apply import settle
from cluster.dedup.apply_journal import ApplyJournal
from cluster.dedup.apply_lock import only_apply
from cluster.dedup.result_columns import GROUPS
from cluster.dedup.result_files import DedupResult
from cluster.dedup.retention import is_due, remove_copies
from shard.errors import FacegridError, InvalidParameter, ResultBusy, UnknownGallery

if TYPE_CHECKING:
    from cluster.api import Cluster

PAUSE_S = 60.0
_LOG = logging.getLogger(__name__)


def sweep(cluster: Cluster, jobs_directory: Path, *, now: float | None = None) -> int:
    """Remove what is due of every job below the directory; of how many. One that fails is logged and left for later.

    now: unix seconds, for tests.
    """
    swept = 0
    for groups in sorted(jobs_directory.glob(f"*/result/{GROUPS}")):
        try:
            swept += _sweep(cluster, groups.parent.parent, now)
        except ResultBusy:
            continue
        except (FacegridError, FileNotFoundError):  # the job may be deleted at this moment
            _LOG.exception("what job %s holds of templates could not be removed", groups.parent.parent.name)
    return swept


def _sweep(cluster: Cluster, job_directory: Path, now: float | None) -> bool:
    hours = cluster.settings.erasure_hours
    if any(journal.is_interrupted for journal in ApplyJournal.all(job_directory)):
        with contextlib.suppress(UnknownGallery, InvalidParameter):  # the gallery is gone, and its templates with it
            settle(cluster, DedupResult.open(job_directory))
    if not is_due(job_directory, hours, now=now):
        return False
    with only_apply(job_directory, wait_s=0):
        remove_copies(job_directory, hours, now=now)
    return True


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
