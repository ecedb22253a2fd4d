"""A process that dies at a moment of the test's choice; `World.crash` starts the next one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from self_healing_fabric.recovery.effects import Effect


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the product may catch it."""


@contextmanager
def killed_at(effect: type[Effect], *, done: bool) -> Iterator[None]:
    """The block ends by the death of its process at such an effect: when it is `done`, or right before."""
    perform = effect.perform

    def perform_and_die(*arguments: Any, **options: Any) -> None:
        if done:
            perform(*arguments, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effect, "perform", perform_and_die)
        with pytest.raises(Killed):
            yield
