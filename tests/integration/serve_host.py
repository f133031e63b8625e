"""A shard host with its data port, in a process that a test may stop: `python -m tests.integration.serve_host`.

Arguments: name, directory. Reads the secret from the first line of its input, prints its port, serves until the input
ends.
"""

import sys
from pathlib import Path

from coordinator.dataplane.server import DataServer
from coordinator.host import ShardHost
from tests.hosts import configure_all_alone

if __name__ == "__main__":
    host = ShardHost(sys.argv[1], Path(sys.argv[2]))
    configure_all_alone(host)
    server = DataServer(host, sys.stdin.readline().strip().encode())
    print(server.address[1], flush=True)
    sys.stdin.read()
    server.close()
    host.close()
