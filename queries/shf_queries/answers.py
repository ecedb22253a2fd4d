"""Answers over urllib3 that are given up after their timeout as a whole, headers included.

As it comes the timeout is for each part: who gets one byte now and then would wait for ever, and a worker
that waits works on nothing else. `http.client` reads all of an answer, whatever its encoding and also over
TLS, through one file that it makes of the socket; so that file is where the time is kept.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import time
from typing import Any, cast

from urllib3 import PoolManager
from urllib3.connectionpool import HTTPConnectionPool


def whole_answers(connections: PoolManager) -> None:
    """Let the timeout of each call be for its whole answer, on connections that are made from now on."""
    connections.pool_classes_by_scheme = {
        scheme: _of_whole_answers(pool) for scheme, pool in connections.pool_classes_by_scheme.items()
    }


def _of_whole_answers(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    connection = type("Connection", (pool.ConnectionCls,), {"response_class": _WholeAnswer})
    return cast(type[HTTPConnectionPool], type("Pool", (pool,), {"ConnectionCls": connection}))


class _WholeAnswer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        timeout = sock.gettimeout()
        if timeout is not None:
            # The file beneath keeps the socket open until the answer is read, as `http.client` counts on.
            self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock, timeout))


class _Timed(io.RawIOBase):
    def __init__(self, beneath: io.RawIOBase, sock: socket.socket, timeout: float) -> None:
        self._beneath, self._socket, self._timeout = beneath, sock, timeout
        self._ends = time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._ends - time.monotonic()
        with contextlib.suppress(TimeoutError):
            if left > 0:
                self._socket.settimeout(left)
                try:
                    return self._beneath.readinto(buffer)
                finally:  # the next question on this connection has a time of its own
                    self._socket.settimeout(self._timeout)
        raise TimeoutError(f"timed out: its answer takes longer than {self._timeout:g} s")

    def close(self) -> None:
        self._beneath.close()
        super().close()
