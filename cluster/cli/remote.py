"""Which service a command works on, and with which key: options count before the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.client import RemoteCluster
    from cluster.config import Settings

_LONGEST_FILE = 4_096
_OF_HOMES = ("home", "runtime", "ray_address", "shard_hosts", "models", "detector", "kernel")
"""Settings that a service has its own of."""


def service_url(given: Mapping[str, Any], settings: Settings) -> str | None:
    """The address of the service; None where the command works on a home. InvalidParameter if both are asked for."""
    if given.get("url") is not None:
        for name in _OF_HOMES:
            if given.get(name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise InvalidParameter(
                    f"expected {option} or --url, got both: {option} is about a home on this machine"
                )
    return None if given.get("home") is not None else settings.url


def api_key(given: Mapping[str, Any], settings: Settings) -> str | None:
    """The key; None if there is none. InvalidParameter for two of them, or a file that holds none."""
    if given.get("key") is not None and given.get("key_file") is not None:
        raise InvalidParameter("expected --key or --key-file, got both")
    if settings.key is not None and given.get("key_file") is None:
        return settings.key
    return None if settings.key_file is None else _key_in(settings.key_file)


def _key_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            line = file.read(_LONGEST_FILE).split(b"\n", 1)[0].strip()
    except OSError as error:
        raise InvalidParameter(f"key file {path} cannot be read: {error.strerror or error}") from None
    if not line or not line.isascii():
        raise InvalidParameter(f"key file {path}: expected an API key in its first line")
    return line.decode("ascii")


def connected(url: str, given: Mapping[str, Any], settings: Settings) -> RemoteCluster:
    """A client of the service."""
    from cluster.client import connect

    return connect(
        url,
        api_key(given, settings),
        verify=True if settings.url_authority is None else str(settings.url_authority),
        allow_insecure=settings.url_insecure,
    )
