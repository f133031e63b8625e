"""What the global options asked for, and the cluster opened accordingly.

Every command gets an `Invocation` from its Typer context. Settings come from options first, then from the environment
by way of `cluster.config`, which alone reads it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cluster.cli.output import Output
from shard.errors import HomeLocked, InvalidParameter, ModelMismatch, NotFound

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.client import RemoteCluster, RemoteGallery
    from cluster.config import Settings
    from cluster.faces import FacePipeline
    from cluster.gallery import Gallery

    AnyCluster = Cluster | RemoteCluster
    AnyGallery = Gallery | RemoteGallery


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of `facegrid`. given: settings named by global options, None where not given."""

    output: Output
    given: dict[str, Any] = field(default_factory=dict)

    def with_settings(self, **given: Any) -> Invocation:
        """The same with settings that a command names itself; those that are None stay as they are."""
        return replace(
            self, given={**self.given, **{name: value for name, value in given.items() if value is not None}}
        )

    def settings(self) -> Settings:
        """Options, then environment, then defaults; InvalidParameter."""
        from cluster.config import load_settings

        return load_settings(**self.given)

    @contextlib.contextmanager
    def cluster(self, *, create: bool = False) -> Iterator[AnyCluster]:
        """The service of --url, or the home, open; see `home`. A home may be created where there is none."""
        with self.service() as service:
            if service is not None:
                yield service
                return
        with self.home(create=create) as grid:
            yield grid

    @contextlib.contextmanager
    def service(self) -> Iterator[RemoteCluster | None]:
        """The service of --url; None if none is named."""
        from cluster.cli.remote import connected, service_url

        settings = self.settings()
        url = service_url(self.given, settings)
        if url is None:
            yield None
            return
        with connected(url, self.given, settings) as service:
            yield service

    def check_home(self, verb: str) -> None:
        """InvalidParameter if a command that works on a home is asked to work on a service."""
        from cluster.cli.remote import service_url

        if service_url(self.given, self.settings()) is not None:
            raise InvalidParameter(
                f"{verb} works on a home, not over --url; name one with --home, or unset FACEGRID_URL"
            )

    @contextlib.contextmanager
    def home(self, verb: str = "this", *, create: bool = False, may_join: bool = True) -> Iterator[Cluster]:
        """The home, open; joined where another process has it open on a Ray cluster that the settings name.

        NotFound where there is none, unless it may be created; HomeLocked and others as it opens.
        verb: which command needs a home, for InvalidParameter where a service is named. may_join: HomeLocked if not.
        """
        from coordinator.home import checked_directory

        self.check_home(verb)
        settings = self.settings()
        checked_directory(settings.home)
        if not create and not (settings.home / "facegrid.json").exists():
            raise NotFound(
                f"no Facegrid home at {settings.home.absolute()}; `facegrid gallery create` makes one there, "
                "or name another with --home or FACEGRID_HOME"
            )
        with _opened_or_joined(settings, may_join=may_join) as grid:
            yield grid

    @contextlib.contextmanager
    def gallery(self, name: str) -> Iterator[AnyGallery]:
        """A gallery of the service, or of the open home; the latter's image verbs use its own embedder, unless the user
        configured one.
        """
        from cluster.client import RemoteGallery

        with self.cluster() as grid:
            gallery = grid.gallery(name)
            wanted = self.given.get("embedder")
            if isinstance(gallery, RemoteGallery) and wanted not in (None, gallery.embedder):
                holds = gallery.embedder or "unknown origin"
                raise ModelMismatch(f"{name} holds embeddings of {holds}; the embedder is {wanted}")
            yield gallery

    @contextlib.contextmanager
    def home_gallery(self, verb: str, name: str) -> Iterator[Gallery]:
        """A gallery of the open home, for a command that cannot work on a service's; see `home`."""
        with self.home(verb) as grid:
            yield grid.gallery(name)

    def faces(self) -> FacePipeline:
        """The face pipeline of the settings, for commands that need no home."""
        from cluster.config import pipeline_options
        from cluster.faces import FacePipeline

        return FacePipeline(pipeline_options(self.settings()), announce=self.output.note)

    def confirm(self, question: str, *, is_confirmed: bool) -> None:
        """Ask before something is destroyed. InvalidParameter where --yes is missing and nobody can be asked."""
        import sys

        if is_confirmed:
            return
        if self.output.as_json or not sys.stdin.isatty():
            raise InvalidParameter(f"{question} Without a terminal to ask on, say so with --yes")
        typer.confirm(question, abort=True, err=True)


@contextlib.contextmanager
def _opened_or_joined(settings: Settings, *, may_join: bool) -> Iterator[Cluster]:
    from cluster.api import Cluster
    from coordinator.actors import LOCAL
    from coordinator.home import home_id_of

    with contextlib.ExitStack() as stack:
        try:
            grid = stack.enter_context(Cluster(settings))
        except HomeLocked:
            if not may_join or settings.runtime != "ray" or settings.ray_address == LOCAL:
                raise
            from coordinator.finding import open_home

            attachment = stack.enter_context(open_home(settings.ray_address, home_id_of(settings.home)))
            grid = stack.enter_context(Cluster.attach(settings, attachment))
        yield grid


def invocation_of(context: typer.Context) -> Invocation:
    """The invocation that the root callback left in the context."""
    found = context.obj
    assert isinstance(found, Invocation), "the root callback runs before every command"
    return found


def check_cosine(value: float | None, *, option: str) -> float | None:
    """A score given as an option, in [-1, 1]; InvalidParameter otherwise (NaN too)."""
    if value is not None and not -1.0 <= value <= 1.0:
        raise InvalidParameter(f"{option}: expected a cosine from -1 to 1, got {value}")
    return value


def read_json(text: str, *, option: str) -> Any:
    """The JSON given as an option; InvalidParameter if it is none."""
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"{option}: expected JSON: {error}") from None


def check_exists(path: Path, *, what: str) -> Path:
    """The path, if something is there; InvalidParameter otherwise."""
    if not path.exists():
        raise InvalidParameter(f"{what}: nothing is at {path}")
    return path
