"""When a call is sent again, and after how long. Pure: the clock and chance are arguments.

Sent again is only what does no harm when it is carried out twice, or what was certainly not carried out; and only after
a fault that may pass. Pauses double and are drawn at random below that (full jitter), so that many clients that failed
together do not come back together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.client.call import Call, Reply
from cluster.client.faults import Fault
from shard.errors import DeadlineExceeded, InvalidParameter


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """attempts: how often a call is sent at most, 1 for never again. base_s, cap_s: the first pause, and the longest.

    deadline_s: how long all attempts of one call may take together, pauses included; a call that may take longer than
    that by itself has its own time instead.
    """

    attempts: int = 5
    base_s: float = 0.1
    cap_s: float = 10.0
    deadline_s: float = 120.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidParameter(f"attempts: expected an integer from 1 on, got {self.attempts!r}")
        for name in ("base_s", "cap_s", "deadline_s"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise InvalidParameter(f"{name}: expected a number of seconds above 0, got {value!r}")


class Attempts:
    """The attempts of one call. clock: seconds that only grow; random: uniform in [0, 1)."""

    def __init__(
        self,
        policy: RetryPolicy,
        call: Call,
        *,
        timeout_s: float,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._policy, self._call, self._clock, self._random = policy, call, clock, random
        self._attempt_s = timeout_s if call.patience_s is None else max(timeout_s, call.patience_s)
        together_s = max(policy.deadline_s, self._attempt_s) if call.deadline_s is None else call.deadline_s
        self._ends = clock() + together_s
        self._made = 0
        self._may_be_done = False

    def begin(self) -> float:
        """Count an attempt; clock time by which it has to be over. DeadlineExceeded if there is no time left."""
        now = self._clock()
        if now >= self._ends:
            raise DeadlineExceeded(
                f"{self._call.method} {self._call.path}: no time is left after {self._made} attempts"
            )
        self._made += 1
        return min(self._ends, now + self._attempt_s)

    def pause_after(self, fault: Fault) -> float | None:
        """Seconds until the next attempt, None if the call has done its work. Raises the fault's error otherwise."""
        if fault.is_not_found and self._may_be_done and self._call.is_done_when_gone:
            return None
        self._may_be_done |= fault.may_be_done
        is_safe = self._call.is_idempotent or not fault.may_be_done
        if not fault.is_transient or not is_safe or self._made >= self._policy.attempts:
            raise fault.error
        longest = min(self._policy.cap_s, self._policy.base_s * 2.0 ** (self._made - 1))
        pause = fault.retry_after_s + longest * self._random()
        if self._clock() + pause >= self._ends:
            raise fault.error
        return pause

    def counted(self, reply: Reply) -> Reply:
        """The answer, with how many attempts it took."""
        return replace(reply, attempts=self._made)

    def done_before(self) -> Reply:
        """The answer of a call that an earlier attempt carried out, whose own answer was lost."""
        return Reply(204, {}, b"", self._made)
