"""Files that are renewed: what is read of them, when, and what is said."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import pytest

from coordinator import certificates
from coordinator.certificates import Renewed, good_until
from shard.errors import InvalidCertificate

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'facegrid[encryption]'")

from tests.certificates import DAY, NOW, Authority, mount

UNUSABLE = "renewed certificates cannot be used, those read before still are"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def at(year: int) -> datetime.datetime:
    return datetime.datetime(year, 12, 31, 23, 59, 58, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize("until", [at(1951), at(1999), at(2049), at(2050), at(9999)], ids=lambda until: str(until.year))
def test_until_when_a_certificate_is_good(authority: Authority, tmp_path: Path, until: datetime.datetime) -> None:
    """Until 2049 it is written with two digits of the year, from 2050 on with four."""
    leaf, _ = authority.signed("host", until=until)
    (tmp_path / "chain.pem").write_bytes(b"# the host's, then its authority's\n" + leaf + authority.pem)
    assert good_until(tmp_path / "chain.pem") == until.timestamp()
    assert good_until(authority.issue(tmp_path / "other", "host", until=until).certificate) == until.timestamp()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", b"no certificate"],
    ids=["empty", "binary", "cut", "text"],
)
def test_what_is_no_certificate_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tls.crt").write_bytes(content)
    with pytest.raises(InvalidCertificate, match=r"expected a PEM certificate in .*tls\.crt"):
        good_until(tmp_path / "tls.crt")


class Counted:
    """Reads a file, and counts how often; refuses one that says so."""

    def __init__(self, path: Path) -> None:
        self.reads, self._path = 0, path

    def __call__(self) -> bytes:
        self.reads += 1
        found = self._path.read_bytes()
        if found == b"bad":
            raise InvalidCertificate("it is bad")
        return found


def test_files_are_read_when_they_change_and_only_then(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    certificate, _ = authority.signed("host", until=at(2031))
    files = mount(tmp_path / "host", certificate, b"first", b"")
    read = Counted(files.private_key)
    renewed = Renewed((files.certificate, files.private_key), read)
    assert "tls.crt is good until 2031-12-31T23:59:58Z" in caplog.text
    assert [renewed.current() for _ in range(5)] == [b"first"] * 5
    assert read.reads == 1
    mount(tmp_path / "host", authority.signed("host", until=at(2032))[0], b"second", b"")
    assert [renewed.current() for _ in range(5)] == [b"second"] * 5
    assert renewed.good_until() == at(2032).timestamp()
    assert read.reads == 2
    assert "tls.crt was renewed, it is good until 2032-12-31T23:59:58Z" in caplog.text


def test_unusable_files_are_said_once_in_a_while_and_mended_ones_used_at_once(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, _ = authority.signed("host", until=NOW + DAY)
    files = mount(tmp_path / "host", certificate, b"first", b"")
    read = Counted(files.private_key)
    renewed = Renewed((files.certificate, files.private_key), read)

    mount(tmp_path / "host", certificate, b"bad", b"")
    assert [renewed.current() for _ in range(50)] == [b"first"] * 50
    assert read.reads == 2
    assert caplog.text.count(UNUSABLE) == 1
    now = certificates.time.monotonic()
    monkeypatch.setattr(certificates.time, "monotonic", lambda: now + certificates.AGAIN_S + 1)
    assert renewed.current() == b"first"
    assert caplog.text.count(UNUSABLE) == 2

    files.certificate.unlink()
    assert [renewed.current() for _ in range(50)] == [b"first"] * 50
    assert caplog.text.count(UNUSABLE) == 3
    assert "tls.crt cannot be read: No such file or directory" in caplog.text

    mount(tmp_path / "host", certificate, b"second", b"")
    assert renewed.current() == b"second"


def test_files_that_change_while_they_are_read_are_read_again(authority: Authority, tmp_path: Path) -> None:
    certificate, _ = authority.signed("host")
    files = mount(tmp_path / "host", certificate, b"first", b"")
    changes = [b"second", b"third"]

    def read() -> bytes:
        found = files.private_key.read_bytes()
        if changes:
            mount(tmp_path / "host", certificate, changes.pop(0), b"")
        return found

    assert Renewed((files.certificate, files.private_key), read).current() == b"third"
    changes.extend(str(i).encode() for i in range(99))
    with pytest.raises(InvalidCertificate, match="change all the time"):
        Renewed((files.certificate, files.private_key), read)
