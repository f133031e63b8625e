"""The data plane: requests and replies between a router and its shard hosts, over TCP.

`server.DataServer` stands in front of one shard host, `client.DataClient` speaks to it. Frames are cut and coded in
`coordinator/frames.py`; `handshake.py` proves both ends; `batching.py` stacks waiting searches. No Ray here.
docs/data-plane.md has the layout and the limits.
"""
