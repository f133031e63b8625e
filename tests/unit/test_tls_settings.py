"""The settings of the data plane's TLS: all three or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import load_settings, tls_files
from shard.errors import InvalidParameter

THREE = {
    "FACEGRID_DATA_CERTIFICATE": "tls/tls.crt",
    "FACEGRID_DATA_PRIVATE_KEY": "/etc/tls/tls.key",
    "FACEGRID_DATA_AUTHORITY": "/etc/tls/ca.crt",
}


def test_the_files_are_given_together_or_not_at_all() -> None:
    assert tls_files(load_settings({})) is None
    files = tls_files(load_settings(THREE))
    assert files is not None
    # Read by processes that have other directories.
    assert files.certificate == Path.cwd() / "tls/tls.crt"
    assert (files.private_key, files.authority) == (Path("/etc/tls/tls.key"), Path("/etc/tls/ca.crt"))


@pytest.mark.parametrize("missing", THREE)
def test_some_of_the_files_are_not_enough(missing: str) -> None:
    with pytest.raises(InvalidParameter, match="expected data_certificate, data_private_key, data_authority together"):
        tls_files(load_settings({name: value for name, value in THREE.items() if name != missing}))


@pytest.mark.parametrize(("name", "value"), [("DATA_PORT", "65536"), ("DATA_PORT", "-1"), ("PROBE_PORT", "0")])
def test_ports_out_of_range_are_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidParameter, match=name.lower()):
        load_settings({f"FACEGRID_{name}": value})
