"""Rollouts: a gallery's way from one SearchModel to the next, over every replica, in two phases.

    preparing      every replica encodes its rows beside the codes in use       fails: rolling_back
    activating     decided: the catalog names the new model, replicas switch    fails: stays, and is resumed
    done           the codes before are kept, for the way back
    rolling_back   the catalog names the previous model again, replicas switch back, codes of the other go
    rolled_back

Each step is in the catalog before a host is asked, and what is asked of a host may be asked again, so whoever opens the
catalog after a kill goes on from its state. Which model to roll out, and when, is the coordinator's.

Replicas in sync of hosts that are there decide whether a phase has failed. A host that is down, or a replica that joins
and may not be there yet, is asked and not waited for: it is brought to the gallery's model when it is back, or before
it counts as in sync.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from coordinator.catalog import LOOKED_AFTER, Catalog
from coordinator.messages import (
    ActivateModel,
    ControlRequest,
    DiscardModels,
    ModelsReply,
    ModelsRequest,
    PrepareModel,
    Reply,
)
from coordinator.rollout_catalog import UNFINISHED, Baseline, Rollout, RolloutCatalog, RolloutState
from coordinator.runtime import Runtime
from coordinator.types import DOWN, GONE, GalleryRoute, RolloutStatus
from shard.errors import FacegridError, NotFound, ShardClosed, UnknownGallery
from shard.model import SearchModel

ATTEMPTS = 5
"""Times that a host is asked before a phase has failed."""
PAUSE_S = 0.5
"""Before the second attempt; doubled before each further one. A host that Ray restarts is there within all of them."""
_LOG = logging.getLogger(__name__)


def by_host(replicas: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    """(host, shard) pairs as host name to its shards; both sorted."""
    grouped: dict[str, list[int]] = {}
    for host, shard in sorted(set(replicas)):
        grouped.setdefault(host, []).append(shard)
    return {host: tuple(shards) for host, shards in grouped.items()}


class Rollouts:
    """Rollouts over a catalog and a runtime. One call at a time for each gallery; that is the caller's to see to."""

    def __init__(
        self,
        catalog: Catalog,
        runtime: Runtime,
        *,
        attempts: int = ATTEMPTS,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog, self._runtime, self._clock = catalog, runtime, clock
        self._attempts, self._pause_s = attempts, pause_s
        self._stopping = threading.Event()
        self.records = RolloutCatalog(catalog)

    def start(self, name: str, model: SearchModel, templates: int, baseline: Baseline) -> None:
        """Roll a model out to every replica of a gallery; it is active on all of them when this returns.

        Raises what made it fail: while preparing, the gallery is back at the model it had (rolled_back); while
        activating, `resume` finishes it. UnknownGallery if the gallery is dropped meanwhile.
        """
        route = self._catalog.gallery(name)
        replicas = sum(map(len, self._in_sync(route).values()))
        data = model.to_bytes()
        self.records.begin(route.gallery_id, model.model_id, data, templates, baseline, replicas, self._clock())
        self.resume(name)

    def resume(self, name: str) -> bool:
        """Finish the gallery's rollout from whatever state; whether there was something to do. Raises as `start`."""
        route = self._catalog.gallery(name)
        found = self.records.rollout(route.gallery_id)
        if found is None or found.state not in UNFINISHED:
            return False
        failure: FacegridError | None = None
        if found.state is RolloutState.PREPARING:
            failure = self._prepare_or_turn_back(route, found)
            found = self._record(route)
        assert found.state in (RolloutState.ACTIVATING, RolloutState.ROLLING_BACK)
        if found.state is RolloutState.ACTIVATING or found.was_activating:
            self._activate(route, found.target)
        if found.state is RolloutState.ROLLING_BACK:
            self._discard_quietly([route])
        self.records.finish(route.gallery_id, self._clock())
        if failure is not None:
            raise failure
        return True

    def roll_back(self, name: str) -> None:
        """Go back to the model before the last rollout. NotFound if there is no rollout to undo; raises as `resume`."""
        route = self._catalog.gallery(name)
        found = self.records.rollout(route.gallery_id)
        if found is None or found.state is RolloutState.ROLLED_BACK:
            raise NotFound(f"{name} has no rollout to roll back: {'it had none' if found is None else 'that was done'}")
        if found.state is not RolloutState.ROLLING_BACK:
            self.records.turn_back(route.gallery_id, None, self._clock())
        self.resume(name)

    def reconcile(self, routes: Sequence[GalleryRoute], hosts: Collection[str] | None = None) -> None:
        """Bring replicas that missed a rollout to their gallery's model, and remove codes that nobody needs any more.

        hosts: only these, where given: those that came back. Raises the first failure, after all were asked.
        """
        failures: list[FacegridError] = []
        for route in routes:
            for host, shards in self._in_sync(route).items():
                try:
                    if hosts is None or host in hosts:
                        self._bring(route, host, shards, route.model_id)
                except FacegridError as error:
                    if not self._may_wait(route, host):
                        failures.append(error)
        self._discard_quietly(routes)
        if failures:
            raise failures[0]

    def bring(self, gallery_id: str, shard: int, host: str) -> None:
        """Have one replica searched by the gallery's model as the catalog says now; its host is asked once.

        Raises UnknownGallery for a gallery that is neither ready nor being restored, and what the host does.
        """
        galleries = self._catalog.galleries(*LOOKED_AFTER)
        route = next((route for route in galleries if route.gallery_id == gallery_id), None)
        if route is None:
            raise UnknownGallery(f"no gallery with the id {gallery_id!r}")
        self._bring(route, host, (shard,), route.model_id, attempts=1)

    def statuses(self) -> list[RolloutStatus]:
        """The last rollout of every gallery that had one, by gallery name."""
        return self.records.statuses()

    def stop(self) -> None:
        """Wait for no host any more; what is under way ends with the error it has."""
        self._stopping.set()

    # Phases

    def _prepare_or_turn_back(self, route: GalleryRoute, found: Rollout) -> FacegridError | None:
        assert found.model_id is not None, "a rollout that prepares has a model"
        try:
            self._prepare(route, found.model_id)
        except (ShardClosed, UnknownGallery):
            raise  # closed: the next process goes on; dropped: there is nothing to go back to
        except FacegridError as error:
            _LOG.warning("%s: %s could not be prepared; rolling back: %s", route.name, found.model_id, error)
            self.records.turn_back(route.gallery_id, f"{error.code}: {error}", self._clock())
            return error
        self.records.decide(route.gallery_id, self._clock())
        return None

    def _prepare(self, route: GalleryRoute, model_id: str) -> None:
        """One shard of each host at a time, all hosts in parallel, so that progress shows and no host is swamped."""
        data = self._catalog.model_data(route.gallery_id, model_id)
        self._discard_quietly([route])  # make room: the codes before the previous ones
        left = {host: list(shards) for host, shards in self._in_sync(route).items() if not self._is_out(host)}
        prepared = 0
        while any(left.values()):
            wave = [
                (host, PrepareModel(route.gallery_id, (shards.pop(0),), data))
                for host, shards in left.items()
                if shards
            ]
            prepared += self._prepare_wave(route, wave)
            self.records.progress(route.gallery_id, self._clock(), prepared=prepared)
        for host, shards in self._joining(route).items():
            with _left_for_later(route, host):
                self._ask([(host, PrepareModel(route.gallery_id, shards, data))], attempts=1)

    def _prepare_wave(self, route: GalleryRoute, wave: Sequence[tuple[str, PrepareModel]]) -> int:
        """All at once, then those hosts each for itself where one failed; how many did it."""
        try:
            return len(self._ask(wave, attempts=1))
        except FacegridError as error:
            _LOG.info("%s: a host did not prepare, each is asked for itself: %s", route.name, error)
        prepared = 0
        for host, request in wave:
            try:
                prepared += len(self._ask([(host, request)], attempts=max(1, self._attempts - 1)))
            except FacegridError:
                if not self._may_wait(route, host, request.shards):
                    raise
                _LOG.warning("%s: shards %s of host %s are left for later", route.name, request.shards, host)
        return prepared

    def _activate(self, route: GalleryRoute, model_id: str | None) -> None:
        """Switch every replica: all hosts at once, and those where that failed once more, each for itself."""
        replicas = {host: shards for host, shards in self._in_sync(route).items() if not self._is_out(host)}
        activated = 0
        failure: FacegridError | None = None
        try:
            self._runtime.control(
                [(host, ActivateModel(route.gallery_id, shards, model_id)) for host, shards in replicas.items()]
            )
        except FacegridError as error:
            _LOG.warning("%s: a host did not switch to %s and is asked again: %s", route.name, model_id, error)
        for host, shards in replicas.items():
            try:
                self._bring(route, host, shards, model_id)
                activated += len(shards)
            except FacegridError as error:
                if not self._may_wait(route, host, shards):
                    failure = failure or error
        for host, shards in self._joining(route).items():
            with _left_for_later(route, host):
                self._bring(route, host, shards, model_id, attempts=1)
        total = sum(map(len, self._in_sync(route).values()))
        self.records.progress(route.gallery_id, self._clock(), activated=activated, replicas=total)
        if failure is not None:
            self.records.note_error(route.gallery_id, f"{failure.code}: {failure}", self._clock())
            raise failure

    # Replicas

    def _in_sync(self, route: GalleryRoute) -> dict[str, tuple[int, ...]]:
        """Host name to the shards of the gallery that it has in sync, as the catalog says now; hosts sorted."""
        configs = self._catalog.shards_of(route.gallery_id)
        return by_host((host, config.shard) for config in configs for host in config.in_sync)

    def _joining(self, route: GalleryRoute) -> dict[str, tuple[int, ...]]:
        """As `_in_sync`, of replicas that are being copied; they may not be there yet."""
        configs = self._catalog.shards_of(route.gallery_id)
        return by_host((host, config.shard) for config in configs for host in config.joining)

    def _is_out(self, host: str) -> bool:
        return any(record.host == host and record.state in (DOWN, GONE) for record in self._catalog.hosts())

    def _may_wait(self, route: GalleryRoute, host: str, shards: Collection[int] | None = None) -> bool:
        """Whether a host that failed is no obstacle: it is down, or has none of these shards in sync any more."""
        own = self._in_sync(route).get(host, ())
        return self._is_out(host) or not (set(own) if shards is None else set(own).intersection(shards))

    def _bring(
        self,
        route: GalleryRoute,
        host: str,
        shards: tuple[int, ...],
        model_id: str | None,
        attempts: int | None = None,
    ) -> None:
        """Have a host search these shards by the model; it is sent to the host only if a shard is not there yet."""
        (reply,) = self._ask([(host, ModelsRequest(route.gallery_id, shards))], attempts)
        assert isinstance(reply, ModelsReply)
        late = tuple(shard for shard, own in zip(shards, reply.model_ids, strict=True) if own != model_id)
        if late:
            _LOG.info("%s: bringing shards %s of host %s to model %s", route.name, late, host, model_id)
            if model_id is not None:
                data = self._catalog.model_data(route.gallery_id, model_id)
                self._ask([(host, PrepareModel(route.gallery_id, late, data))], attempts)
            self._ask([(host, ActivateModel(route.gallery_id, late, model_id))], attempts)

    def _discard_quietly(self, routes: Sequence[GalleryRoute]) -> None:
        """Remove what no rollout needs. Garbage does no harm: a host that fails here is asked again next time."""
        for route in routes:
            keep = self._needed(route)
            for host, shards in self._in_sync(route).items():
                if not self._is_out(host):
                    with _left_for_later(route, host):
                        self._runtime.control([(host, DiscardModels(route.gallery_id, shards, keep))])

    def _needed(self, route: GalleryRoute) -> tuple[str, ...]:
        """Models whose codes are kept: the gallery's, and those that its rollout may go to, ahead or back."""
        found = self.records.rollout(route.gallery_id)
        needed = {self._catalog.gallery(route.name).model_id}
        if found is not None:
            is_going_back = found.state in (RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK)
            needed |= {found.previous_model_id} if is_going_back else {found.model_id, found.previous_model_id}
        return tuple(sorted(model_id for model_id in needed if model_id is not None))

    def _record(self, route: GalleryRoute) -> Rollout:
        found = self.records.rollout(route.gallery_id)
        if found is None:
            raise UnknownGallery(f"{route.name} was dropped during its rollout")
        return found

    def _ask(self, calls: Sequence[tuple[str, ControlRequest]], attempts: int | None = None) -> list[Reply]:
        """Carry out the calls, which are repeatable, again if what failed may succeed when repeated."""
        for attempt in itertools.count(1):
            try:
                return self._runtime.control(calls)
            except FacegridError as error:
                if not error.is_retryable or attempt == (attempts or self._attempts):
                    raise
                _LOG.info("attempt %d failed: %s", attempt, error)
                if self._stopping.wait(self._pause_s * 2 ** (attempt - 1)):
                    raise
        raise AssertionError("at least one attempt")


@contextlib.contextmanager
def _left_for_later(route: GalleryRoute, host: str) -> Iterator[None]:
    """What fails is logged: the replica is asked again by whoever admits it, or with the next rollout."""
    try:
        yield
    except FacegridError as error:
        _LOG.warning("%s: host %s is left for later: %s", route.name, host, error)
