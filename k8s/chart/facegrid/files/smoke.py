"""What `helm test` asks of a release: do the gateways answer, and, with a key, does a gallery work from end to end.

`smoke.py URL [--key FILE] [--authority FILE]`: with a key it makes a tenant of a name that nobody has, and drops it
whatever happens. The key goes only to a service whose certificate is good for the URL.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np

from cluster import Cluster

WAIT_S = 300
"""A release that was just installed is given so long."""


def answers(url: str, path: str) -> None:
    """Wait until the path answers 200. Nothing secret is sent, so that any certificate will do."""
    trusting = ssl._create_unverified_context()
    end = time.monotonic() + WAIT_S
    while True:
        try:
            with urllib.request.urlopen(url + path, timeout=5, context=trusting) as reply:
                print(f"{path}: {reply.status}")
                return
        except OSError as error:
            if time.monotonic() > end:
                sys.exit(f"{url}{path}: {error}")
        time.sleep(2)


def works(url: str, key: str, authority: str | None) -> None:
    """Create, enroll, search, drop."""
    tenant = f"helm-test-{uuid.uuid4().hex[:12]}"
    is_insecure = url.startswith("http:")
    with Cluster.connect(url, key, verify=authority or True, allow_insecure=is_insecure) as grid:
        grid.tenants.create(tenant)
        try:
            gallery = grid.gallery(f"{tenant}/faces", create=True, dim=64)
            names = [f"person-{row}" for row in range(10)]
            faces = np.eye(10, 64, dtype=np.float32)
            gallery.enroll(faces, identities=names)
            found = [row[0] for row in gallery.search(faces, k=1).identities]
            if found != names:
                sys.exit(f"searched the ten templates that were enrolled, expected {names}, found {found}")
            print("enrolled and found ten templates")
        finally:
            grid.tenants.drop(tenant)


def main() -> None:
    """Exits with a message if something does not work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--authority")
    given = parser.parse_args()
    answers(given.url, "/livez")
    answers(given.url, "/readyz")
    if given.key is not None:
        works(given.url, given.key.read_text(encoding="utf-8").strip(), given.authority)


if __name__ == "__main__":
    main()
