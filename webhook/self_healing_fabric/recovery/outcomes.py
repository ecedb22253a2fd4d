"""How an action ended, as a type: the third answer, "cannot be learnt", is the one that keeps people safe.

Treating a timeout as a failure restarts a service twice; treating it as success believes what nobody saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Of an action. `INTENDED` and `STARTED` are found only after a crash."""

    INTENDED = "intended"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the effect did not happen
    INDETERMINATE = "indeterminate"  # it may have happened, and the target cannot tell


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt. `retry_in` (seconds) asks for another attempt of the same strategy."""

    status: Status
    detail: str
    retry_in: float | None = None
