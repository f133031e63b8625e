"""What networks there are: `models.toml` read into frozen specs.

Owns the list and its checks; must not know where a file lies on this machine (`model_files.py`) or how it is run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, cast

from shard.errors import UnknownModel
from shard.types import MAX_DIM, MIN_DIM

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["detector", "embedder"]

DEFAULT_DETECTOR = "yunet_2023mar"
DEFAULT_EMBEDDER = "sface_2021dec"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file that holds a network's weights. `sha256` (lower-case hex) and `bytes` are None where none is stated."""

    name: str
    sha256: str | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A detector or embedder and how to feed it.

    files: the file that pulling fetches, then variants of the same weights. url: None where none is known.
    The network gets (pixel - mean) * scale, channels in the order `channels`, (batch, 3, input_size, input_size).
    batch: images of one call, 0 where the graph leaves it free. dim, threshold (cosine): None for a detector;
    threshold is None too where nobody has derived one. score_threshold, enroll_score, sure_score, nms_threshold:
    of a detector, the least score to report a face, the least to enroll it, the least to believe that it is upright
    without trying the other ways, the most overlap of two faces.
    """

    name: str
    kind: Kind
    family: str
    files: tuple[ModelFile, ...]
    url: str | None
    licence: str
    is_commercial_use_allowed: bool
    input_size: int
    channels: Literal["RGB", "BGR"]
    scale: float
    mean: float
    batch: int
    note: str
    dim: int | None = None
    input_name: str | None = None
    threshold: float | None = None
    threshold_source: str | None = None
    score_threshold: float | None = None
    enroll_score: float | None = None
    sure_score: float | None = None
    nms_threshold: float | None = None

    @property
    def file(self) -> ModelFile:
        """The file that pulling fetches."""
        return self.files[0]


def list_models(kind: Kind | None = None) -> tuple[ModelSpec, ...]:
    """Every known network, in the registry's order; only those of `kind` where it is given."""
    return tuple(spec for spec in _registry().values() if kind is None or spec.kind == kind)


def model_spec(name: str, kind: Kind | None = None) -> ModelSpec:
    """The network of that name. Raises UnknownModel, naming those there are, for another name or kind."""
    spec = _registry().get(name)
    if spec is None or (kind is not None and spec.kind != kind):
        known = ", ".join(spec.name for spec in list_models(kind))
        raise UnknownModel(f"no {kind or 'model'} is called {name!r}; known: {known}")
    return spec


@cache
def _registry() -> dict[str, ModelSpec]:
    text = resources.files(__package__).joinpath("models.toml").read_text(encoding="utf-8")
    return {name: parse_spec(name, entry) for name, entry in tomllib.loads(text).items()}


def parse_spec(name: str, entry: dict[str, Any]) -> ModelSpec:
    """One table of `models.toml` as a spec. Raises ValueError, naming model and field, where the table is wrong."""
    fields = dict(entry)
    variants = cast(list[dict[str, Any]], fields.pop("variants", []))
    own = {key: fields.pop(key, None) for key in ("file", "sha256", "bytes")}
    files = tuple(_parse_file(name, table) for table in (own, *variants))
    fields.setdefault("url", None)
    try:
        spec = ModelSpec(name=name, files=files, **fields)
    except TypeError as error:
        raise ValueError(f"models.toml, [{name}]: {error}") from error
    _check(spec)
    return spec


def _parse_file(name: str, table: dict[str, Any]) -> ModelFile:
    sha256 = table.get("sha256")
    if not table.get("file"):
        raise ValueError(f"models.toml, [{name}]: a file has no name")
    if sha256 is not None and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
        raise ValueError(f"models.toml, [{name}]: sha256 must be 64 lower-case hex digits, got {sha256!r}")
    return ModelFile(table["file"], sha256, table.get("bytes"))


def _check(spec: ModelSpec) -> None:
    is_embedder = spec.kind == "embedder"
    rules = {
        "kind is detector or embedder": spec.kind in ("detector", "embedder"),
        "channels is RGB or BGR": spec.channels in ("RGB", "BGR"),
        f"an embedder has dim {MIN_DIM} to {MAX_DIM}, a detector none": (
            spec.dim is not None and MIN_DIM <= spec.dim <= MAX_DIM if is_embedder else spec.dim is None
        ),
        "a detector has score_threshold, enroll_score, sure_score and nms_threshold": is_embedder
        or None not in (spec.score_threshold, spec.enroll_score, spec.sure_score, spec.nms_threshold),
        "a threshold comes with its source": (spec.threshold is None) == (spec.threshold_source is None),
        "a url is only given with a sha256": spec.url is None or spec.file.sha256 is not None,
        "scale is positive, batch is not negative": spec.scale > 0 and spec.batch >= 0,
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ValueError(f"models.toml, [{spec.name}]: {'; '.join(broken)}")
