"""Where files of a job's result are written: whole or not at all, under the names that the service lists."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster.client.operations.jobs import RemoteJobResult
from shard.errors import InvalidParameter
from shard.files import make_directory, new_file


def wanted_files(result: RemoteJobResult, files: Sequence[str] | None) -> list[str]:
    """Those of the result's files that are asked for; InvalidParameter for one that it does not have."""
    there = [file.name for file in result.files]
    for name in files or ():
        if name not in there:
            raise InvalidParameter(f"files: the result has no {name!r:.80}; it has {', '.join(there)}")
    return there if files is None else list(files)


@contextlib.contextmanager
def opened(directory: Path, name: str) -> Iterator[tuple[Path, Callable[[bytes], object]]]:
    """The file's path, and what takes its bytes; it is there when the block ends without an error. WriteFailed."""
    path = directory / name
    make_directory(path.parent)
    with new_file(path, mode=0o644) as file:
        yield path, file.write
