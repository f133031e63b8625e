"""What a read asks of every shard of a gallery, and what it got. No hosts here and no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from coordinator.messages import DataRequest, Reply
from coordinator.types import Coverage, GalleryRoute
from shard.errors import DeadlineExceeded, FacegridError, IncompleteCoverage

ReplyT = TypeVar("ReplyT", bound=Reply)


# Not frozen, for speed: one of each is made for every read, and neither leaves the process.
@dataclass(slots=True)
class Question(Generic[ReplyT]):
    """What is asked of every shard. `kind` and `probes` say whose latency it is like; `request` makes the request to
    one host from (shards, epochs)."""

    kind: str
    probes: int
    request: Callable[[tuple[int, ...], tuple[int, ...]], DataRequest]
    reply: type[ReplyT]


@dataclass(slots=True)
class Answers(Generic[ReplyT]):
    """What a read got. replies: each with the shards it answers for, no shard twice. failures: an error of every other
    shard, first come first."""

    route: GalleryRoute
    replies: list[tuple[tuple[int, ...], ReplyT]]
    failures: dict[int, FacegridError]

    @property
    def coverage(self) -> Coverage:
        """How many shards answered."""
        return Coverage(sum(len(shards) for shards, _ in self.replies), self.route.shards)

    def check_complete(self) -> None:
        """Raise if a shard failed: its error where repeating the call will not help or the deadline passed, else
        IncompleteCoverage."""
        if not self.failures:
            return
        shard, failure = next(iter(self.failures.items()))
        if isinstance(failure, DeadlineExceeded) or not failure.is_retryable:
            raise failure
        raise IncompleteCoverage(
            f"{self.coverage.answered} of {self.coverage.asked} shards answered for {self.route.name}; shard {shard}"
            f" did not: {failure}"
        ) from failure


def expected(reply: Reply, kind: type[ReplyT]) -> ReplyT:
    """The reply; TypeError if it is of another type, which is a bug of the host."""
    if not isinstance(reply, kind):
        raise TypeError(f"expected a {kind.__name__}, got {type(reply).__name__}")
    return reply
