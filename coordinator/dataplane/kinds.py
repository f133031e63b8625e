"""The kinds of data requests. Each has its own connection at the client and its own threads at the host.

Searches take all cores and are stacked; look-ups are short reads that follow a search and must not wait for one; writes
wait for the disk and for replicas, and those that wait together share a commit; what comes from a primary must not wait
behind writes that wait for another primary; health is asked when everything else may be stuck; exports read many
megabytes, one after another, so that they never take more than one core from the rest.
"""

from __future__ import annotations

from coordinator.messages import (
    AbsorbRequest,
    AmendRequest,
    BeaconRequest,
    DataRequest,
    DeleteRequest,
    EnrollRequest,
    ExportMovedRequest,
    ExportRequest,
    FlushRequest,
    HealthRequest,
    MoveOutRequest,
    RenameRequest,
    ReplicateRequest,
    RestartRequest,
    SearchRequest,
)

THREADS = {"search": 1, "look": 1, "write": 8, "replica": 4, "health": 1, "export": 1}
"""Threads of each kind at a host. Writes of several threads to one shard are committed together."""
KINDS = tuple(THREADS)


def kind_of(request: DataRequest) -> str:
    """Which of KINDS a request is."""
    if isinstance(request, SearchRequest):
        return "search"
    if isinstance(
        request, EnrollRequest | DeleteRequest | AmendRequest | RenameRequest | MoveOutRequest | FlushRequest
    ):
        return "write"
    if isinstance(request, ReplicateRequest | AbsorbRequest | RestartRequest):
        return "replica"
    if isinstance(request, HealthRequest | BeaconRequest):
        return "health"
    if isinstance(request, ExportRequest | ExportMovedRequest):
        return "export"
    return "look"
