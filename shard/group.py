"""Group commit: callers that write at the same time share one sync and one transaction.

Each leaves a ticket and then takes the write lock; whoever gets it first carries out what waits, so that the others
find theirs done. Owns the queue of tickets; what a request means is the shard's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from shard.log import Entry
from shard.types import EnrollBatch

GROUP_ROWS = 8_192
"""Rows that one commit takes together; a longer batch is a group of its own."""


@dataclass(frozen=True, slots=True)
class Enrollment:
    """A caller's batch. operation: its id, b"" for none."""

    batch: EnrollBatch
    skip_existing: bool
    operation: bytes


@dataclass(frozen=True, slots=True)
class Deletion:
    """Template ids and identities to delete. operation: its id, b"" for none."""

    template_ids: tuple[str, ...]
    identities: tuple[str, ...]
    operation: bytes


@dataclass(frozen=True, slots=True)
class Amendment:
    """Template ids and the metadata that each gets instead of its own. operation: its id, b"" for none."""

    template_ids: tuple[str, ...]
    metadata: tuple[bytes | None, ...]
    operation: bytes


@dataclass(frozen=True, slots=True)
class Renaming:
    """Up to `limit` templates of an identity get another one. operation: its id, b"" for none."""

    identity: str
    into: str
    limit: int
    operation: bytes


@dataclass(frozen=True, slots=True)
class Departure:
    """Templates of an identity that another shard has now, to be deleted here. operation: its id."""

    identity: str
    template_ids: tuple[str, ...]
    operation: bytes


Request = Enrollment | Deletion | Amendment | Renaming | Departure


@dataclass(slots=True)
class Ticket:
    """A request and, once it is done, what it came to: (done, left out, LSN), or an error."""

    request: Request
    outcome: tuple[int, int, int] | None = None
    error: BaseException | None = None
    entry: Entry | None = field(default=None, repr=False)

    @property
    def is_done(self) -> bool:
        """It was carried out, or failed."""
        return self.outcome is not None or self.error is not None

    def result(self) -> tuple[int, int, int]:
        """(done, left out, LSN); raises the error."""
        if self.error is not None:
            raise self.error
        assert self.outcome is not None
        return self.outcome


class WaitingRequests:
    """Tickets in the order of their arrival. Adding is safe from any thread; taking is for who holds the write lock."""

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()

    def add(self, request: Request) -> Ticket:
        """Leave a request."""
        ticket = Ticket(request)
        self._tickets.append(ticket)
        return ticket

    def take(self) -> list[Ticket]:
        """The next group: enrollments up to GROUP_ROWS rows, or one other request; the longest-waiting always."""
        group: list[Ticket] = []
        rows = 0
        while self._tickets:
            request = self._tickets[0].request
            size = len(request.batch) if isinstance(request, Enrollment) else GROUP_ROWS
            if group and rows + size > GROUP_ROWS:
                break
            group.append(self._tickets.popleft())
            rows += size
        return group
