"""The HTTP service: the verbs of `cluster.Cluster` behind keys, quotas and fair turns. The one room of FastAPI.

The way of a request: `shell` (limits, request id, who asks) → FastAPI's routing → `routes/` → `calls.Call` (may they?)
→ `searches`/`work` (whose turn is it?) → `cluster.Gallery`.
"""
