"""Snapshot stores for tests: a directory, and a bucket of a real S3 API server (moto) in this process."""

from __future__ import annotations

import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_server() -> Iterator[str]:
    """`host:port` of an S3 API server, with credentials for it in the environment."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'facegrid[dev]'")
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            yield f"{host}:{port}"
        finally:
            server.stop()


def new_bucket(address: str) -> str:
    """URL of a store in a fresh bucket of the server."""
    name = f"faces-{secrets.token_hex(4)}"
    request = urllib.request.Request(f"http://{address}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
    return f"s3://{name}/backups?endpoint_override={address}&scheme=http&region=us-east-1"
