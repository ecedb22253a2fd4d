"""One thread does for many at once what each of them waits for: a commit is paid once for them all.

Whoever puts something in waits until it is done. Meanwhile others come; what has gathered when the thread is
free is done together. So nobody waits for company, and the more there are, the less each costs.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from self_healing_fabric.errors import StoreUnavailable

Item = TypeVar("Item")
Answer = tuple[Any, BaseException | None]  # the value, or the error of this one alone

MAX_BATCH = 200  # done together; bounds how long the first of them waits
MAX_QUEUE = 10_000  # that may wait; beyond it the webhook answers 503 instead of eating memory
WRITE_TIMEOUT = 8.0  # seconds; shorter than the 10 s after which Alertmanager gives up on an answer


class Batcher(Generic[Item]):
    """The queue and its thread. `put` may be called from any thread.

    Args:
        name: of the thread.
        together: does what has gathered; returns an answer for each, in order. What it raises, all get.
    """

    def __init__(self, name: str, together: Callable[[list[Item]], Sequence[Answer]]) -> None:
        self._together = together
        # A third of the cost of a Queue.
        self._waiting: queue.SimpleQueue[tuple[Item, Future[Any]] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> Any:
        """Return the answer when it is done.

        Raises:
            StoreUnavailable: it was not done, or not in time. (After a timeout it may still be.)
        """
        future: Future[Any] = Future()
        if self._closed.is_set():
            raise StoreUnavailable("the store is shutting down")
        if self._waiting.qsize() >= MAX_QUEUE:  # by a few more, where several threads look at once
            raise StoreUnavailable(f"{MAX_QUEUE} writes are waiting already")
        self._waiting.put((item, future))
        try:
            return future.result(timeout=WRITE_TIMEOUT)
        except TimeoutError as error:
            future.cancel()
            raise StoreUnavailable(f"not stored within {WRITE_TIMEOUT:g} s") from error

    def close(self) -> None:
        """Do what is queued, then stop."""
        self._closed.set()
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._gather()) is not None:
            self._do(batch)

    def _gather(self) -> list[tuple[Item, Future[Any]]] | None:
        """Wait for one and take all that wait behind it; None when closed and empty."""
        first = self._waiting.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                each = self._waiting.get_nowait()
            except queue.Empty:
                break
            if each is None:
                self._waiting.put(None)  # close after this batch
                break
            batch.append(each)
        return batch

    def _do(self, batch: list[tuple[Item, Future[Any]]]) -> None:
        live = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
        if not live:
            return
        try:
            answers = self._together([item for item, _ in live])
        except Exception as error:  # noqa: BLE001 - nothing of the batch is stored: everyone must hear it
            reason = getattr(error, "orig", None) or error
            for _, future in live:
                future.set_exception(StoreUnavailable(f"cannot store: {reason}"))
            return
        for (_, future), (value, failure) in zip(live, answers, strict=True):
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)
