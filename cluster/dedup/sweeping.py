"""`Sweeper`: while a home is open, removes what finished dedup jobs hold of templates when its time has come.

It looks once when the home is opened and then every minute, as the erasure of deleted templates does. What an
interrupted apply has begun is completed first, or its templates would be lost with the journal.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.dedup.apply import settle
from cluster.dedup.apply_journal import ApplyJournal
from cluster.dedup.result_columns import GROUPS
from cluster.dedup.result_files import DedupResult
from cluster.dedup.retention import is_due, remove_copies
from shard.errors import FacegridError

if TYPE_CHECKING:
    from cluster.api import Cluster

PAUSE_S = 60.0
_LOG = logging.getLogger(__name__)


def sweep(cluster: Cluster, jobs_directory: Path, *, now: float | None = None) -> int:
    """Remove what is due of every job below the directory; of how many. One that fails is logged and left for later.

    now: unix seconds, for tests.
    """
    swept = 0
    hours = cluster.settings.erasure_hours
    for groups in sorted(jobs_directory.glob(f"*/result/{GROUPS}")):
        job_directory = groups.parent.parent
        try:
            if is_due(job_directory, hours, now=now):
                if any(journal.state in ("applying", "undoing") for journal in ApplyJournal.all(job_directory)):
                    settle(cluster, DedupResult.open(job_directory))
                remove_copies(job_directory, hours, now=now)
                swept += 1
        except (FacegridError, FileNotFoundError):  # the job may be deleted at this moment
            _LOG.exception("what job %s holds of templates could not be removed", job_directory.name)
    return swept


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
            except Exception:
                # The boundary of the thread: the next look may do better.
                _LOG.exception("jobs could not be looked at for what they hold of templates")
            if self._closing.wait(PAUSE_S):
                return
