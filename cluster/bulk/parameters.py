"""What a bulk enrollment is asked for: sources, and how they are worked on. Values only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Kind = Literal["auto", "folder", "tar", "parquet", "arrow", "npy"]
MAX_SOURCES = 1_000


def _from_text(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Source(BaseModel):
    """Where photos or embeddings are.

    url: a path, a glob of paths, or a URL (`s3://bucket/prefix`, `file:///…`) that may have a glob too. kind: told
    from names if "auto". manifest: of a folder, a file of the items it has (JSON lines, or CSV with a header).
    labels, identities, template_ids: of a .npy array, files of a line a row. Columns are those of Parquet and Arrow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1, max_length=4096)
    kind: Kind = "auto"
    manifest: str | None = Field(default=None, max_length=4096)
    labels: str | None = Field(default=None, max_length=4096)
    identities: str | None = Field(default=None, max_length=4096)
    template_ids: str | None = Field(default=None, max_length=4096)
    image_column: str | None = Field(default=None, max_length=256)
    embedding_column: str | None = Field(default=None, max_length=256)
    identity_column: str | None = Field(default=None, max_length=256)
    template_id_column: str | None = Field(default=None, max_length=256)
    metadata_column: str | None = Field(default=None, max_length=256)

    @property
    def has_paths(self) -> bool:
        """Whether workers read a file by its path. A manifest is read by the process that runs the job."""
        files = (self.url, self.labels, self.identities, self.template_ids)
        return any("://" not in file or file.startswith("file://") for file in files if file is not None)


AnySource = Annotated[Source, BeforeValidator(_from_text)]


class Work(BaseModel):
    """How the units of a job are worked on.

    sources: in their order; a text is a source of that url. workers: processes that find and embed faces; as many as
    cores, or as Ray has CPUs or GPUs, if None. gpus: of Ray, for each embedder. unit_photos, unit_rows: of one unit.
    max_ratio: how many times its size a compressed archive may become; beyond, it is taken for a bomb.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[AnySource, ...] = Field(min_length=1, max_length=MAX_SOURCES)
    workers: int | None = Field(default=None, ge=1, le=4096)
    gpus: float = Field(default=0.0, ge=0, le=8)
    unit_photos: int = Field(default=64, ge=1, le=4096)
    unit_rows: int = Field(default=8192, ge=1, le=65_536)
    max_ratio: float = Field(default=100.0, gt=1)


class EnrollParameters(Work):
    """Of a job `enroll`. keep_thumbnails: a small picture of each face in its metadata."""

    keep_thumbnails: bool = False


class ReembedParameters(Work):
    """Of a job `reembed`: the job's gallery again, by another network, from the photos of the sources.

    into: `tenant/gallery` of the same tenant, made if it is not there. embedder: the network's name in the registry.
    shards, code_bits: of the new gallery; as the old one's if None.
    """

    into: str = Field(min_length=1, max_length=256)
    embedder: str = Field(min_length=1, max_length=256)
    shards: int | None = Field(default=None, ge=1)
    code_bits: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _of_photos(self) -> ReembedParameters:
        for source in self.sources:
            if source.kind == "npy" or source.embedding_column is not None:
                raise ValueError(f"{source.url}: photos are embedded anew; a source of embeddings has none")
        return self
