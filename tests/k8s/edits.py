"""Copies of manifests with one thing changed, for tests that a check finds it."""

import copy
from typing import Any

from tests.k8s.charts import Manifest, title

DELETE = object()
APPEND = "+"


def edited(manifest: Any, path: str, value: Any) -> Any:
    """A copy of manifest with `value` at a path such as `spec.containers.0.image` (`+`: another item; `/` for a dot).

    DELETE takes the thing away. KeyError where the way to it does not exist, so that no test changes nothing.
    """
    changed = copy.deepcopy(manifest)
    *way, last = [part.replace("/", ".") for part in path.split(".")]
    at = changed
    for part in way:
        at = at[int(part)] if isinstance(at, list) else at[part]
    if value is DELETE:
        del at[int(last) if isinstance(at, list) else last]
    elif isinstance(at, list):
        at.append(value) if last == APPEND else at.__setitem__(int(last), value)
    else:
        at[last] = value
    return changed


def with_one_edited(manifests: list[Manifest], named: str, path: str, value: Any) -> list[Manifest]:
    """The manifests, the one of that title `edited`; there has to be one."""
    assert named in map(title, manifests)
    return [edited(one, path, value) if title(one) == named else one for one in manifests]
