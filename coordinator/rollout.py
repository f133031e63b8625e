"""Rollouts: a gallery's way from one SearchModel to the next, over every replica, in two phases.

    preparing      every replica encodes its rows beside the codes in use       fails: rolling_back
    activating     decided: the catalog names the new model, replicas switch    fails: stays, and is resumed
    done           the codes before are kept, for the way back
    rolling_back   the catalog names the previous model again, replicas switch back, codes of the other go
    rolled_back

Each step is in the catalog before a host is asked, and what is asked of a host may be asked again, so whoever opens the
catalog after a kill goes on from its state. Which model to roll out, and when, is the coordinator's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from coordinator.catalog import Catalog
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
from coordinator.types import GalleryRoute, RolloutStatus
from shard.errors import FacegridError, NotFound, ShardClosed, UnknownGallery
from shard.model import SearchModel

ATTEMPTS = 5
"""Times that a host is asked before a phase has failed."""
PAUSE_S = 0.5
"""Before the second attempt; doubled before each further one. A host that Ray restarts is there within all of them."""
_LOG = logging.getLogger(__name__)


def odd_ones_out(model_ids: Sequence[str | None]) -> list[int]:
    """Which replies of one search must be asked for again with exact scans, so that one model is behind the answer.

    model_ids: what each reply says found it, None for exact scans, which go with any model. Most replies decide, the
    larger id among equals. Empty when there is nothing to repeat, as it is outside of rollouts.
    """
    counts = Counter(model_id for model_id in model_ids if model_id is not None)
    if len(counts) < 2:
        return []
    chosen = max(counts, key=lambda model_id: (counts[model_id], model_id))
    return [i for i, model_id in enumerate(model_ids) if model_id not in (None, chosen)]


def replicas_by_host(route: GalleryRoute) -> dict[str, tuple[int, ...]]:
    """Host name to the shards that it holds a copy of, in sync; hosts sorted."""
    names = sorted({host for hosts in route.in_sync for host in hosts})
    return {name: tuple(i for i, hosts in enumerate(route.in_sync) if name in hosts) for name in names}


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
        replicas = sum(map(len, replicas_by_host(route).values()))
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
            for host, shards in replicas_by_host(route).items():
                try:
                    if hosts is None or host in hosts:
                        self._bring(route, host, shards, route.model_id)
                except FacegridError as error:
                    failures.append(error)
        self._discard_quietly(routes)
        if failures:
            raise failures[0]

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
        data = self._catalog.model_data(model_id)
        self._discard_quietly([route])  # make room: the codes before the previous ones
        left = {host: list(shards) for host, shards in replicas_by_host(route).items()}
        prepared = 0
        while any(left.values()):
            wave = [
                (host, PrepareModel(route.gallery_id, (shards.pop(0),), data))
                for host, shards in left.items()
                if shards
            ]
            self._ask(wave)
            prepared += len(wave)
            self.records.progress(route.gallery_id, self._clock(), prepared=prepared)

    def _activate(self, route: GalleryRoute, model_id: str | None) -> None:
        """Switch every replica: all hosts at once, and those where that failed once more, each for itself."""
        replicas = replicas_by_host(route)
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
                failure = failure or error
        self.records.progress(
            route.gallery_id, self._clock(), activated=activated, replicas=sum(map(len, replicas.values()))
        )
        if failure is not None:
            self.records.note_error(route.gallery_id, f"{failure.code}: {failure}", self._clock())
            raise failure

    def _bring(self, route: GalleryRoute, host: str, shards: tuple[int, ...], model_id: str | None) -> None:
        """Have a host search these shards by the model; it is sent to the host only if a shard is not there yet."""
        (reply,) = self._ask([(host, ModelsRequest(route.gallery_id, shards))])
        assert isinstance(reply, ModelsReply)
        late = tuple(shard for shard, own in zip(shards, reply.model_ids, strict=True) if own != model_id)
        if late:
            _LOG.info("%s: bringing shards %s of host %s to model %s", route.name, late, host, model_id)
            if model_id is not None:
                self._ask([(host, PrepareModel(route.gallery_id, late, self._catalog.model_data(model_id)))])
            self._ask([(host, ActivateModel(route.gallery_id, late, model_id))])

    def _discard_quietly(self, routes: Sequence[GalleryRoute]) -> None:
        """Remove what no rollout needs. Garbage does no harm: a host that fails here is asked again next time."""
        for route in routes:
            keep = self._needed(route)
            for host, shards in replicas_by_host(route).items():
                try:
                    self._runtime.control([(host, DiscardModels(route.gallery_id, shards, keep))])
                except FacegridError as error:
                    _LOG.warning("%s: host %s keeps codes of models before: %s", route.name, host, error)

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

    def _ask(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply]:
        """Carry out the calls, which are repeatable, again if what failed may succeed when repeated."""
        for attempt in range(1, self._attempts + 1):
            try:
                return self._runtime.control(calls)
            except FacegridError as error:
                if not error.is_retryable or attempt == self._attempts:
                    raise
                _LOG.info("attempt %d of %d failed: %s", attempt, self._attempts, error)
                if self._stopping.wait(self._pause_s * 2 ** (attempt - 1)):
                    raise
        raise AssertionError("at least one attempt")
