"""A file as an answer, read piece by piece: whole, or the one range that was asked for (RFC 9110, 14).

What a browser is told of it: that it is to be kept and not shown, and, were it shown all the same, that nothing in it
runs and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from fastapi import Response
from starlette.types import Receive, Scope, Send

from cluster.service.problems import HttpProblem

PIECE_BYTES = 256 << 10
CONTENT_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".csv": "text/csv; charset=utf-8",
}
_OTHER = "application/octet-stream"
_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


def content_type(name: str) -> str:
    """The media type of a file by the end of its name."""
    return CONTENT_TYPES.get(Path(name).suffix, _OTHER)


def asked_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte that a Range header asks for; None for the whole file.

    What is no single range of bytes is passed over, as the standard allows. HttpProblem 416 for one beyond the file.
    """
    found = None if header is None else _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return None
    first, last = found[1], found[2]
    if first == "":
        begin, end = max(0, size - int(last)), size - 1
        is_good = int(last) > 0 and size > 0
    else:
        begin, end = int(first), size - 1 if last == "" else min(int(last), size - 1)
        if last != "" and int(last) < begin:
            return None
        is_good = begin < size
    if not is_good:
        raise HttpProblem(416, "range_not_satisfiable", f"Range: expected one within {size} bytes, got {header!r:.80}")
    return begin, end


class FileDownload(Response):
    """A file of which nobody writes any more. The path is the caller's to have checked."""

    def __init__(self, path: Path, name: str, *, size: int, tag: str, asked: tuple[int, int] | None) -> None:
        """size: its bytes. tag: of its content, for ETag. asked: first and last byte to send, None for all."""
        super().__init__(None, 200 if asked is None else 206, media_type=content_type(name))
        self._path = path
        self._first, self._last = (0, size - 1) if asked is None else asked
        self.headers["content-length"] = str(self._last - self._first + 1)
        self.headers["accept-ranges"] = "bytes"
        self.headers["etag"] = f'"{tag}"'
        self.headers["content-disposition"] = f'attachment; filename="{name}"'
        self.headers["content-security-policy"] = _SANDBOX
        if asked is not None:
            self.headers["content-range"] = f"bytes {self._first}-{self._last}/{size}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. A file that is shorter than it was ends the connection: its length was promised."""
        file = await asyncio.to_thread(self._path.open, "rb")
        try:
            await asyncio.to_thread(file.seek, self._first)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            left = self._last - self._first + 1
            while left > 0:
                piece = await asyncio.to_thread(file.read, min(left, PIECE_BYTES))
                if not piece:
                    raise OSError(f"{self._path}: {left} bytes less than there were")
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            if self._last < self._first:
                await send({"type": "http.response.body", "body": b""})
        finally:
            await asyncio.to_thread(file.close)
