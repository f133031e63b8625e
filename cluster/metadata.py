"""Metadata of a template as JSON: what may be in it, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shard.errors import InvalidParameter


def metadata_json(value: Mapping[str, Any] | None) -> bytes | None:
    """The JSON of a mapping, UTF-8; None for None. InvalidParameter for what JSON cannot say."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidParameter(f"metadata: expected a mapping or None for each template, got {type(value).__name__}")
    try:
        _check_keys(value)
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"metadata: not representable as JSON: {error}") from None


def _check_keys(value: object) -> None:
    """TypeError for a key that is no text: JSON would make one of it, and 1 and "1" the same."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"expected text as keys, got {type(key).__name__} {key!r:.80}")
            _check_keys(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_keys(inner)
