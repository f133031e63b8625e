"""What Ray keeps of an actor that it may start again: its arguments, pickled, for longer than a version lasts.

An actor of a home that runs detached is started again with the arguments of its first start, by whichever version of
Facegrid is installed on its node by then. So what is handed to such an actor's constructor follows three rules:

1. A constructor keeps its parameters, in their order and with their meaning. New ones come last and have defaults that
   mean what was the case before there was the parameter.
2. Arguments are plain values (text, bytes, numbers, paths, tuples and mappings of these), or dataclasses that are
   `kept`, whose new fields come last and have defaults too.
3. A kept class stays in its module under its name.

What such an actor says of itself, maybe to a process of another version, is `kept` for the same reason.

`tests/unit/test_kept.py` holds the constructors and the classes to what was once handed out.
"""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, Field, fields
from importlib import metadata
from typing import Any, TypeVar

T = TypeVar("T")


def kept(cls: type[T]) -> type[T]:
    """Have a frozen dataclass be pickled by the names of its fields, so that a version with more or fewer can read it.

    Fields that were not known then get their defaults; fields that are not known any more are dropped. TypeError, when
    it is read, for a field that is new and has no default.
    """

    def state(self: Any) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def restore(self: Any, values: dict[str, Any]) -> None:
        for field in fields(self):
            value = values[field.name] if field.name in values else _default(cls, field)
            object.__setattr__(self, field.name, value)

    for name, method in (("__getstate__", state), ("__setstate__", restore)):
        setattr(cls, name, method)
    return cls


def _default(cls: type, field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    raise TypeError(f"{cls.__name__}.{field.name} is kept in arguments of actors: expected a default, got none")


def installed_version() -> str:
    """Version of Facegrid in this process."""
    try:
        return metadata.version("facegrid")
    except metadata.PackageNotFoundError:
        return "source"


def revision_of(*made_of: object) -> str:
    """What tells an actor of these values from one of others, so that a later process knows whether it would make the
    same.

    Says nothing of the values. They must be such whose text is the same in each process.
    """
    return hashlib.blake2b(repr(made_of).encode(), digest_size=16).hexdigest()


def fingerprint(*made_of: object) -> str:
    """A revision that changes with the installed version too, for actors that do not say theirs themselves."""
    return revision_of(installed_version(), made_of)
