"""Users, so that there is something to measure: steady requests to every sample service.

Rates, error shares and latencies exist only where there is traffic, and a rule that fires on two requests a
minute would prove little. The load is spread with jitter, for fourteen requests in the same millisecond
would measure their own queue. Threads and `http.client` on kept connections cost 2 % of a core where an
async client costs 10. Each service has two users: with one, a service that takes 0.4 s to answer would also
see half of its traffic go away.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Self

REQUESTS_PER_SECOND = 4.5  # to each service
_USERS = 2  # of each service
_TIMEOUT = 2.0  # seconds a user waits for an answer


class Traffic:
    """`with Traffic(ports):` sends GET /work to each of these loopback ports, whatever it answers.

    `users` of each service share its `requests_per_second`; each waits for its answer before it asks again.
    """

    def __init__(
        self, ports: Iterable[int], requests_per_second: float = REQUESTS_PER_SECOND, users: int = _USERS
    ) -> None:
        self._pause = users / requests_per_second  # seconds, on average
        self._stop = threading.Event()
        # Not the module's own generator: tests that replay its sequence run in this process too.
        self._jitter = random.Random()
        self._users = [
            threading.Thread(target=self._use, args=(port,), name=f"user-{port}", daemon=True)
            for port in ports
            for _ in range(users)
        ]

    def __enter__(self) -> Self:
        for user in self._users:
            user.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for user in self._users:
            user.join()

    def _use(self, port: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
        while not self._stop.wait(self._jitter.uniform(0.5, 1.5) * self._pause):
            try:
                connection.request("GET", "/work")
                connection.getresponse().read()
            except (OSError, HTTPException):
                connection.close()  # the next request opens a new one
        connection.close()
