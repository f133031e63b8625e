"""A Service of type ClusterIP: one address, behind it the pods that are ready, which share its connections."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable

Targets = Callable[[], list[tuple[str, int]]]


class Service:
    """Listens on `address:port` and hands each connection to the next of `targets()`; without any it is closed."""

    def __init__(self, address: str, port: int, targets: Targets) -> None:
        self._targets = targets
        self._turn = itertools.count()
        self._listener = socket.create_server((address, port), backlog=64)
        self.address, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        targets = self._targets()
        with caller:
            if not targets:
                return
            try:
                pod = socket.create_connection(targets[next(self._turn) % len(targets)], timeout=5)
            except OSError:
                return
            with pod:
                pod.settimeout(None)
                back = threading.Thread(target=_copy, args=(pod, caller), daemon=True)
                back.start()
                _copy(caller, pod)
                back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            end.shutdown(how)
        except OSError:
            continue
