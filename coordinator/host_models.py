"""The SearchModel files of one shard host: written once, loaded once, removed when no shard needs them.

    <host>/models/<model id>.model          a model's bytes; its name is the hash of its content
    <host>/models/<model id>.<tag>.model    the same, sealed with the data key of a tenant; the tag tells whose

Which shards need which model is the host's to say. Thread-safe.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from shard.encryption import key_tag, seal, unseal
from shard.errors import CorruptData, UnknownModel, WrongKey
from shard.files import make_directory, remove_file, write_file
from shard.model import SearchModel

_SUFFIX = ".model"
_LOG = logging.getLogger(__name__)


class HostModels:
    """Models by id, each in memory once however many shards use it."""

    def __init__(self, directory: Path, host: str) -> None:
        self._directory, self._host = directory, host
        self._lock = threading.RLock()
        self._loaded: dict[Path, SearchModel] = {}
        self._in_use: Counter[str] = Counter()

    def load(self, model_id: str, key: bytes | None = None) -> SearchModel:
        """One copy of a model, mapped from its file. UnknownModel if it has none, CorruptData if it is damaged.

        key: of the gallery that it is of, None if that is in the clear.
        """
        path = self._path(model_id, key)
        with self._lock:
            if path not in self._loaded:
                if not path.is_file():
                    raise UnknownModel(f"shard host {self._host} has no file of model {model_id}: {path}")
                self._loaded[path] = _mapped(path) if key is None else _unsealed(path, model_id, key)
            return self._loaded[path]

    def is_any_stored(self) -> bool:
        """Whether there is a file of any model."""
        return next(self._directory.glob(f"*{_SUFFIX}"), None) is not None

    @contextlib.contextmanager
    def storing(self, data: bytes, key: bytes | None = None) -> Iterator[SearchModel]:
        """The model of these bytes, from its file: written unless it is there and sound, and not removed meanwhile."""
        model_id = SearchModel.from_bytes(data).model_id
        with self._held(model_id):
            yield self._load_or_store(model_id, data, key)

    def _load_or_store(self, model_id: str, data: bytes, key: bytes | None) -> SearchModel:
        with self._lock:
            try:
                return self.load(model_id, key)
            except (UnknownModel, CorruptData):
                make_directory(self._directory)
                stored = data if key is None else seal(key, f"model {model_id}", data)
                write_file(self._path(model_id, key), stored)
                return self.load(model_id, key)

    @contextlib.contextmanager
    def using(self, model_id: str, key: bytes | None = None) -> Iterator[SearchModel]:
        """A model whose file stays meanwhile. Raises as `load` does."""
        with self._held(model_id):
            yield self.load(model_id, key)

    @contextlib.contextmanager
    def _held(self, model_id: str) -> Iterator[None]:
        """No shard may say yet that it needs the model."""
        with self._lock:
            self._in_use[model_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_use[model_id] -= 1

    def remove_except(self, needed: Collection[str]) -> None:
        """Remove the files of all models but these and those that are held. Raises WriteFailed."""
        with self._lock:
            keep = {*needed, *(model_id for model_id, holders in self._in_use.items() if holders)}
            for path in self._directory.glob(f"*{_SUFFIX}"):
                model_id = path.name.partition(".")[0]
                if model_id not in keep:
                    _LOG.info("shard host %s: removing model %s, which no shard needs", self._host, model_id)
                    self._loaded.pop(path, None)
                    remove_file(path)

    def _path(self, model_id: str, key: bytes | None) -> Path:
        tag = "" if key is None else f".{key_tag(key)}"
        return self._directory / f"{model_id}{tag}{_SUFFIX}"


def _mapped(path: Path) -> SearchModel:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    model = SearchModel.from_bytes(memoryview(mapped))
    # Hashing read it all, and searches have what they need; only encoding will want these pages again.
    mapped.madvise(mmap.MADV_DONTNEED)
    return model


def _unsealed(path: Path, model_id: str, key: bytes) -> SearchModel:
    try:
        return SearchModel.from_bytes(unseal(key, f"model {model_id}", path.read_bytes()))
    except WrongKey as error:
        raise CorruptData(f"{path} is not what was written: {error}", path=str(path)) from error
