"""`shf serve` with what a test changes in the product's constants, or with a freeze at the worst moment.

    python replica.py CHANGES serve --config FILE

CHANGES is JSON: `lease` and `renewal` in seconds; `freeze`: a file in whose presence the process stops itself
(SIGSTOP) when it has begun an action in the store and nothing at the target yet; it removes the file.
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


def change(changes: dict[str, Any]) -> None:
    """Apply the changes in this process."""
    if "lease" in changes:
        leases.LEASE = journal.LEASE = changes["lease"]
    if "renewal" in changes:
        leases.RENEWAL = changes["renewal"]
    if "freeze" in changes:
        _freeze_before_the_effect(Path(changes["freeze"]))


def _freeze_before_the_effect(flag: Path) -> None:
    original = journal.announce

    def announce(*arguments: Any, **options: Any) -> Refusal | float:
        answer = original(*arguments, **options)
        if not isinstance(answer, Refusal) and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return answer

    journal.announce = announce


if __name__ == "__main__":
    change(json.loads(sys.argv.pop(1)))
    main()
