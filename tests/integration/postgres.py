"""A real PostgreSQL server for tests: made in a temporary directory, stopped and removed at the end.

It listens on a Unix socket and on a loopback port, asks for a password there, and runs as another user where the tests
run as root, because PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

PASSWORD = "gesichtsraster"
_TOOL_S = 120.0


class PostgresServer:
    """One server with its own data directory. `start` and `stop` may be called in turn; `close` removes it."""

    def __init__(self) -> None:
        """Make a database cluster and start it. Fails the test where PostgreSQL is not installed or does not start."""
        self._bin = _binaries()
        self._user = _server_user()
        # Short, because a Unix socket's path has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="fgpg", dir="/tmp"))
        self._databases = 0
        self._is_running = False
        try:
            if self._user is not None:
                os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
            password = self.directory / "password"
            password.write_text(PASSWORD)
            password.chmod(0o644)
            self._run(
                "initdb", "--username=facegrid", f"--pwfile={password}", "--auth-local=trust",
                "--auth-host=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync",
            )  # fmt: skip
            self.port = _free_port()
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the server and wait until it answers; on the same port as before."""
        options = (
            f"-p {self.port} -k {self.directory} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=16MB"
        )
        self._run("pg_ctl", "start", "-w", "-t", str(int(_TOOL_S)), "-l", f"{self.directory}/log", "-o", options)
        self._is_running = True

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server: `immediate` is a crash, `fast` ends its sessions in order."""
        self._run("pg_ctl", "stop", "-w", "-t", str(int(_TOOL_S)), "-m", mode)
        self._is_running = False

    def new_database(self) -> str:
        """URL of a new, empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://facegrid:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def execute(self, database: str, sql: str) -> None:
        """Run a statement over the Unix socket, as an administrator would."""
        import psycopg

        with psycopg.connect(
            host=str(self.directory), port=self.port, user="facegrid", dbname=database, autocommit=True
        ) as connection:
            connection.execute(sql.encode())

    def close(self) -> None:
        """Stop the server and remove its directory."""
        try:
            if self._is_running:
                self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, tool: str, *arguments: str) -> None:
        identity = {}
        if self._user is not None:
            identity = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        # A file and no pipe, which the server would inherit and keep open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(self._bin / tool), "-D", f"{self.directory}/data", *arguments],
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self.directory)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=2 * _TOOL_S,
                check=False,
                **identity,  # type: ignore[call-overload]
            )
            output.seek(0)
            said = output.read()
        if done.returncode != 0:
            log = self.directory / "log"
            pytest.fail(f"{tool} failed with {done.returncode}:\n{said}\n{log.read_text() if log.exists() else ''}")


def _binaries() -> Path:
    """Directory of initdb and pg_ctl: that of the PATH, or the newest that Debian's package put aside."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if on_path is None and not debian:
        pytest.fail(
            "these tests need a real PostgreSQL: install it (Debian's package is `postgresql`) or put initdb on PATH"
        )
    return (Path(on_path) if on_path is not None else debian[-1]).resolve().parent


def _server_user() -> pwd.struct_passwd | None:
    """Whom to run the server as; None for the present user."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return known[name]
    pytest.fail("PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody`")


def _free_port() -> int:
    """A loopback port that nobody has, and that nobody is given by chance while the server restarts."""
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    low, high = map(int, limits.read_text().split()) if limits.exists() else (32_768, 60_999)
    for port in range(15_432 + os.getpid() % 4_096, 65_536):
        if low <= port <= high:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.fail("no free loopback port")


def without_password(message: str) -> bool:
    """Whether a message has nothing of the password in it."""
    return re.search(PASSWORD, message) is None
