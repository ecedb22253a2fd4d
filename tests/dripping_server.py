"""A server whose answers come byte by byte and never end, as over a network that is almost gone."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

IN_BODY = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 9999\r\n\r\n'
IN_HEADERS = b"HTTP/1.1 200 OK\r\nETag: "
IN_GREETING = b"220-"  # of a mail server, which speaks first


@contextlib.contextmanager
def dripping_server(begins: bytes = IN_BODY) -> Iterator[str]:
    """The URL of one that sends the beginning of its answer whole and the rest byte by byte."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if begins != IN_GREETING:
                connection.recv(4096)
            connection.sendall(begins)
            while not ended.wait(0.1):
                connection.sendall(b"x")

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
