"""The four kinds of data requests. Each has its own connection at the client and its own thread at the host.

Searches take all cores and are stacked; look-ups are short reads that follow a search and must not wait for one; writes
wait for the disk; exports read many megabytes. The writes of one client to one host are carried out in the order they
were submitted.
"""

from __future__ import annotations

from coordinator.messages import DataRequest, DeleteRequest, EnrollRequest, ExportRequest, FlushRequest, SearchRequest

KINDS = ("search", "look", "write", "export")


def kind_of(request: DataRequest) -> str:
    """Which of KINDS a request is."""
    if isinstance(request, SearchRequest):
        return "search"
    if isinstance(request, EnrollRequest | DeleteRequest | FlushRequest):
        return "write"
    if isinstance(request, ExportRequest):
        return "export"
    return "look"
