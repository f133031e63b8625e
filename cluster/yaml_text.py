"""Plain values as YAML: what JSON has, in blocks, every text in double quotes. Nothing reads YAML here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9./_-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""What is no text in YAML 1.1 unless it is in quotes."""


def yaml_text(value: Mapping[str, Any]) -> str:
    """The value as YAML, ASCII, with a line break at its end. Keys are texts of at most 100 characters;
    their order stays."""
    return "".join(f"{line}\n" for line in _lines(value, ""))


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _entry(f"{indent}{_key(key)}:", one, f"{indent}  ")
    else:
        for one in value:
            first, *rest = _lines(one, f"{indent}  ") if _is_block(one) else [f"{indent}  {_scalar(one)}"]
            yield f"{indent}- {first[len(indent) + 2 :]}"
            yield from rest


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    if _is_block(value):
        yield head
        yield from _lines(value, indent)
    else:
        yield f"{head} {_scalar(value)}"


def _is_block(value: Any) -> bool:
    """Whether it takes lines of its own: a list or an object that is not empty."""
    return isinstance(value, (Mapping, Sequence)) and not isinstance(value, str) and bool(value)


def _key(key: str) -> str:
    """A key, in quotes where it could be read as something else than a text."""
    return key if _PLAIN.fullmatch(key) and key.lower() not in _WORDS else _scalar(key)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        # JSON's escapes are YAML's, but for characters beyond 16 bits, of which JSON makes two.
        return '"' + "".join(_escaped(character) for character in value) + '"'
    text = json.dumps(value, allow_nan=False)
    # YAML 1.1 takes 1e+16 for a text.
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text


def _escaped(character: str) -> str:
    return f"\\U{ord(character):08X}" if ord(character) > 0xFFFF else json.dumps(character)[1:-1]
