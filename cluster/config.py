"""Settings: the only place that reads environment variables. A test holds `docs/configuration.md` to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from cluster.faces import ModelPlaces, PipelineOptions
from coordinator.dataplane.tls import TlsFiles
from coordinator.key_service import KeySource
from shard.errors import InvalidParameter


class Settings(BaseModel):
    """How a home is opened. Each field is set by its environment variable `FACEGRID_<FIELD>` unless given in code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(default=Path("facegrid-home"), description="Home directory of galleries.")
    url: str | None = Field(default=None, description="Service to work on instead of a home; the command line only.")
    key: str | None = Field(default=None, repr=False, description="API key for the service.")
    key_file: Path | None = Field(default=None, description="File whose first line is the API key for the service.")
    url_authority: Path | None = Field(
        default=None,
        description="PEM file of whom to trust about the service's certificate; the usual list if not set.",
    )
    url_insecure: bool = Field(
        default=False,
        description="Send the API key over plain http to another machine too, as inside a network policy.",
    )
    runtime: Literal["local", "ray"] = Field(
        default="local", description="Where shard hosts run: in this process, or as Ray actors."
    )
    ray_address: str = Field(
        default="local", description="Ray cluster to join (host:port), or `local` to start one on this machine."
    )
    ray_detached: bool = Field(
        default=False, description="Whether the actors on Ray outlive the process that opened the home."
    )
    catalog: str | None = Field(
        default=None,
        # It may have a password in it.
        repr=False,
        description="Database of the catalog, as a SQLAlchemy URL; `catalog.db` in the home if not set.",
    )
    shard_hosts: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Shard hosts to run in this process, or on a Ray that Facegrid starts itself; 1 if not set.",
    )
    data_port: int = Field(
        default=0, ge=0, le=65_535, description="Port of the data plane at every shard host on Ray; 0: any free one."
    )
    probe_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Port where every shard host on Ray answers `/livez`, `/readyz` and `/metrics`; none if not set.",
    )
    data_certificate: Path | None = Field(
        default=None,
        description="PEM file of the certificate that this node shows on the data plane; plain connections if not set.",
    )
    data_private_key: Path | None = Field(default=None, description="PEM file of its private key.")
    data_authority: Path | None = Field(
        default=None, description="PEM file of the authority that signed the certificates of all ends."
    )
    erasure_hours: float = Field(
        default=24.0, gt=0, le=24 * 365, description="Hours that bytes of deleted templates may stay in files."
    )
    audit_days: float = Field(
        default=400.0, gt=0, le=36_525, description="Days that entries of the audit log are kept."
    )
    encryption_key_file: Path | None = Field(
        default=None,
        description="File of the master key of encrypted tenants: 32 bytes, as they are, as hex digits or as base64.",
    )
    encryption_key: SecretStr | None = Field(
        default=None, description="The master key itself, as 64 hex digits or as base64, where there is no file."
    )
    encryption_kms: str | None = Field(
        default=None, description="`module:function` that gives a key service, instead of a master key."
    )
    open_shards: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Shards that a host has open at a time; as many as its limit of open files allows, at most 512.",
    )
    kernel: str | None = Field(default=None, description="SIMD kernel by name; the fastest that runs here if not set.")
    models: tuple[Path, ...] = Field(
        default=(), description="Directories to look for network files in, separated by `:`, before the cache."
    )
    cache: Path = Field(
        default_factory=lambda: Path.home() / ".cache" / "facegrid", description="Where pulled network files are kept."
    )
    detector: str = Field(default="yunet_2023mar", description="Face detector, by its name in the registry.")
    embedder: str = Field(default="sface_2021dec", description="Face embedder, by its name in the registry.")
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads of the networks; as many as cores if not set."
    )

    recall_share: float = Field(
        default=0.001, ge=0, le=1, description="Share of the service's probes that are searched again exactly; 0: none."
    )
    bulk_sources: tuple[str, ...] = Field(
        default=(),
        description="Directories and URLs, separated by spaces, that jobs of API keys may read from, with `{tenant}`"
        " for the tenant's name; none if not set.",
    )
    trace_endpoint: str | None = Field(
        default=None, description="OTLP/HTTP collector that the service sends spans to; no spans if not set."
    )

    @field_validator("bulk_sources", mode="before")
    @classmethod
    def _split_words(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("models", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


def kept_settings(settings: Settings) -> dict[str, Any]:
    """What was set, without what only the process that opens the home needs: its keys, its catalog and its service.

    Plain values, for actors that Ray may start again when another version of Facegrid is installed: `settings_of`.
    """
    return settings.model_dump(exclude_unset=True, exclude=_OPENERS)


def settings_of(kept: Mapping[str, Any]) -> Settings:
    """The settings again. Those that this version does not know are dropped."""
    return Settings(**{name: value for name, value in kept.items() if name in Settings.model_fields})


_OPENERS = {"encryption_key_file", "encryption_key", "encryption_kms", "catalog", "url", "key", "key_file"}


def key_source(settings: Settings) -> KeySource:
    """Where these settings say that the keys of encrypted tenants are wrapped."""
    text = None if settings.encryption_key is None else settings.encryption_key.get_secret_value()
    return KeySource(settings.encryption_key_file, text, settings.encryption_kms)


def tls_files(settings: Settings) -> TlsFiles | None:
    """The files of the data plane's TLS; None for plain connections. InvalidParameter if only some are given."""
    certificate, private_key, authority = settings.data_certificate, settings.data_private_key, settings.data_authority
    if certificate is None and private_key is None and authority is None:
        return None
    if certificate is None or private_key is None or authority is None:
        given = [name for name in _TLS_SETTINGS if getattr(settings, name) is not None]
        raise InvalidParameter(
            f"TLS of the data plane: expected {', '.join(_TLS_SETTINGS)} together or none of them,"
            f" got {', '.join(given)} only"
        )
    # Absolute, because the processes that read them are elsewhere.
    return TlsFiles(certificate.absolute(), private_key.absolute(), authority.absolute())


_TLS_SETTINGS = ("data_certificate", "data_private_key", "data_authority")


def pipeline_options(settings: Settings) -> PipelineOptions:
    """The face pipeline that these settings ask for."""
    return PipelineOptions(
        detector=settings.detector,
        embedder=settings.embedder,
        places=ModelPlaces(settings.models, settings.cache),
        allow_download=True,
        threads=settings.threads or 0,
    )


_POOLS = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SINGLE_THREADED = dict.fromkeys(_POOLS, "1")
"""Environment of a process that computes on one core: of many processes each shall have one."""


def worker_environment() -> dict[str, str]:
    """Environment of a process that works for this one on a single core and finds the same modules."""
    return {**os.environ, **SINGLE_THREADED, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


PREFIX = "FACEGRID_"
# Read by the tests and the demo, not by the product.
_FOREIGN = {"FACEGRID_DATA", "FACEGRID_SCREENSHOTS", "FACEGRID_TORTURE", "FACEGRID_CRASH_SEED"}


def load_settings(environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Settings from keyword arguments, then the environment, then defaults.

    Raises InvalidParameter for a value out of range and for a FACEGRID_ variable that nobody knows: a misspelt
    setting must not be ignored.
    """
    environ = os.environ if environ is None else environ
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known and name not in _FOREIGN)
    if unknown:
        raise InvalidParameter(f"unknown setting {unknown[0]}; known: {', '.join(sorted(known))}")
    values: dict[str, Any] = {field: environ[variable] for variable, field in known.items() if environ.get(variable)}
    values.update({name: value for name, value in given.items() if value is not None})
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        came = "a value that is not shown" if field in ("encryption_key", "key") else repr(first.get("input"))
        raise InvalidParameter(f"setting {field}: {first['msg']}; got {came}") from None
