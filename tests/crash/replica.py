"""`shf serve` with what a test changes in the product's constants, or with a freeze at the worst moment.

    python replica.py CHANGES serve --config FILE

CHANGES is JSON: `lease` and `renewal` in seconds; `freeze`: a file in whose presence the process stops itself
(SIGSTOP) when it has begun an action in the store and nothing at the target yet; it removes the file.
`freeze_call`: likewise, when it has claimed a call and sent nothing yet.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from self_healing_fabric.cli import main
from self_healing_fabric.guardrails import Refusal
from self_healing_fabric.orchestration import journal, leases
from self_healing_fabric.orchestration.caller import Batch, Caller
from self_healing_fabric.settings import LOG


def change(changes: dict[str, Any]) -> None:
    """Apply the changes in this process."""
    if "lease" in changes:
        leases.LEASE = journal.LEASE = changes["lease"]
    if "renewal" in changes:
        leases.RENEWAL = changes["renewal"]
    if "freeze" in changes:
        _freeze_before_the_effect(Path(changes["freeze"]))
    if "freeze_call" in changes:
        _freeze_before_the_call(Path(changes["freeze_call"]))


def _freeze_before_the_effect(flag: Path) -> None:
    original = journal.announce

    def announce(*arguments: Any, **options: Any) -> Refusal | float:
        answer = original(*arguments, **options)
        if not isinstance(answer, Refusal) and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return answer

    journal.announce = announce


def _freeze_before_the_call(flag: Path) -> None:
    original = Caller.claim

    def claim(caller: Caller, limit: int) -> list[Batch]:
        claimed = original(caller, limit)
        if any(row.channel != LOG for batch in claimed for row in batch.rows) and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return claimed

    Caller.claim = claim  # type: ignore[method-assign]


if __name__ == "__main__":
    change(json.loads(sys.argv.pop(1)))
    main()
