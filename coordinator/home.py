"""The home directory: its format version, its lock, its secret, and where things are in it.

<home>/facegrid.json     format version and home id
<home>/cluster.secret    what hosts and routers of this home authenticate each other with, mode 0600
<home>/catalog.db        `coordinator.catalog`
<home>/hosts/<name>/     `coordinator.host`
<home>/jobs/<job id>/    `cluster.jobs`
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from shard.errors import CorruptData, FormatTooNew, InvalidParameter, StorageError
from shard.files import DirectoryLock, make_directory, write_file

HOME_FORMAT = 1


class Home:
    """An open home directory. One process at a time: HomeLocked for the second."""

    def __init__(self, directory: Path) -> None:
        """Open the home, or create it where there is an empty directory, a new volume or none.

        Raises FormatTooNew for a newer format, CorruptData for a directory that holds something else, InvalidParameter
        where no directory can be.
        """
        self.directory = checked_directory(directory)
        manifest = self.directory / "facegrid.json"
        if not manifest.exists() and self.directory.is_dir() and _is_foreign(self.directory):
            raise CorruptData(f"{self.directory} is not a Facegrid home and not empty: it has no facegrid.json")
        make_directory(self.directory)
        self._lock = DirectoryLock(self.directory)
        try:
            self.home_id = _manifest_id(manifest) if manifest.exists() else self._create(manifest)
        except BaseException:
            self._lock.close()
            raise

    def _create(self, manifest: Path) -> str:
        home_id = secrets.token_hex(8)
        write_file(self.directory / "cluster.secret", secrets.token_hex(32).encode())
        make_directory(self.hosts_directory)
        # Last, because its presence says that the home is complete.
        write_file(manifest, json.dumps({"format": HOME_FORMAT, "home_id": home_id}).encode())
        return home_id

    @property
    def secret(self) -> bytes:
        """The cluster's secret."""
        return _read_bytes(self.directory / "cluster.secret")

    @property
    def catalog_path(self) -> Path:
        """The catalog's SQLite file."""
        return self.directory / "catalog.db"

    @property
    def hosts_directory(self) -> Path:
        """Parent of the hosts' directories."""
        return self.directory / "hosts"

    def local_hosts(self) -> tuple[str, ...]:
        """Names of the hosts that have a directory in this home, sorted."""
        if not self.hosts_directory.is_dir():
            raise CorruptData(f"{self.directory} is no whole home: expected the directory {self.hosts_directory}")
        return tuple(sorted(path.name for path in self.hosts_directory.iterdir() if path.is_dir()))

    def close(self) -> None:
        """Release the lock. Idempotent."""
        self._lock.close()


def home_id_of(directory: Path) -> str:
    """The id of a home, whoever has it open. Raises what `Home` does of its manifest; StorageError if it has none."""
    return _manifest_id(directory / "facegrid.json")


def jobs_directory(home: Path) -> Path:
    """Where the jobs of a home keep their files."""
    return home / "jobs"


def checked_directory(path: Path) -> Path:
    """The path, absolute, of a directory that is there or may be made; InvalidParameter if a file is in its way."""
    try:
        directory = path.resolve()
        there = next(place for place in (directory, *directory.parents) if place.exists())
    except (OSError, RuntimeError, ValueError) as error:  # too long a name; a ring of links; a name that none can have
        raise InvalidParameter(f"home: expected the path of a directory, got {str(path)!r}: {error}") from error
    if not there.is_dir():
        raise InvalidParameter(f"home: expected a directory, got {directory}: {there} is a file")
    return directory


def _manifest_id(manifest: Path) -> str:
    try:
        values = json.loads(_read_bytes(manifest))
        _check_format(values["format"], manifest)
        return str(values["home_id"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(f"{manifest} is not a home's manifest: {error!r}") from error


def _check_format(value: object, manifest: Path) -> None:
    """CorruptData or FormatTooNew unless this Facegrid reads it. True and 1.0 are no formats, though they equal 1."""
    if type(value) is not int or value < 1:
        raise CorruptData(f"{manifest}: format: expected an integer of at least 1, got {value!r}")
    if value > HOME_FORMAT:
        raise FormatTooNew(f"{manifest} has format {value}; this Facegrid reads up to {HOME_FORMAT}")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"could not read {path}: {error.strerror or error}") from error


def _is_foreign(directory: Path) -> bool:
    """Something is in the directory that an interrupted creation of a home does not leave."""
    ours = {"LOCK", "cluster.secret", "cluster.secret.tmp", "facegrid.json.tmp", "hosts"}
    nobodys = "lost+found"  # ext4 makes it at the root of every new volume
    return any(path.name not in {*ours, nobodys} for path in directory.iterdir())
