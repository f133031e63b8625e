"""Where the service is and who asks: checked once, when a client is made. The key is shown nowhere."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from shard.errors import InvalidParameter

_LONGEST_KEY = 512


@dataclass(frozen=True, slots=True)
class Address:
    """base: `scheme://host[:port][/prefix]` without a slash at its end. The key is not in its repr."""

    base: str
    key: str | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        # Floats do not shrink; and what is not compressed cannot blow up here.
        common = {"Accept-Encoding": "identity", "User-Agent": "facegrid-client"}
        return common if self.key is None else {**common, "Authorization": f"Bearer {self.key}"}


def checked_address(url: str, key: str | None, *, allow_insecure: bool) -> Address:
    """The address of a service; InvalidParameter, without the key in it, for one that must not be used.

    A key does not travel over plain http, except to this machine, unless `allow_insecure`.
    """
    parts = _split(url)
    host = parts.hostname or ""
    if key is not None:
        _check_key(key)
        if parts.scheme == "http" and not is_loopback(host) and not allow_insecure:
            raise InvalidParameter(
                f"url: an API key would travel over plain http to {host}, where others can read it; expected https, "
                "or allow_insecure=True"
            )
    return Address(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", key)


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise InvalidParameter(f"url: expected text such as https://host:port, got {type(url).__name__}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises for one out of range
    except ValueError as error:
        raise InvalidParameter(f"url: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidParameter("url: expected no user or password in it; give the key as api_key")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidParameter(f"url: expected https://host[:port] or http://host[:port], got {url!r:.200}")
    if parts.query or parts.fragment:
        raise InvalidParameter("url: expected an address without ? and #")
    return parts


def _check_key(key: str) -> None:
    is_text = isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY
    if not is_text or not all("!" <= character <= "~" for character in key):
        raise InvalidParameter("api_key: expected a key of printable ASCII characters, as the service gave it out")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, which no network carries."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
