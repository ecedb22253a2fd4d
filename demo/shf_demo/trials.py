"""One fault, from its injection to the verdict on whether it was healed.

That the fabric calls an incident healed is a claim of the accused. Here it counts only together with the
truth at the target: the supervisor counted exactly one restart since the fault, and the health endpoint
answers 200 when asked directly. Two restarts are a failure too, since what is repaired twice was not known
to be repaired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from shf_demo.stack import Stack
from shf_demo.watching import Happening, IncidentWatch

_POLL_INTERVAL = 0.3  # seconds


@dataclass
class Trial:
    kind: str
    service: str
    needs_baseline: bool = False
    detected_after: float | None = None  # seconds since the fault, like the next
    healed_after: float | None = None
    action: str = ""
    verdict: str = "waiting"
    healed: bool | None = None


def all_trials() -> list[Trial]:
    """In the order of the demo: what heals fastest comes first."""
    return [
        Trial("hang", "tokenguard"),
        Trial("exit", "guardian-three"),
        Trial("errors", "trustguard"),
        Trial("latency", "guardian-five", needs_baseline=True),
        Trial("cpu", "flowguard"),
        Trial("memory", "guardian-seven"),
    ]


FAULT_KINDS = tuple(trial.kind for trial in all_trials())


def run_trial(
    trial: Trial, stack: Stack, tell: Callable[[Happening], None], update: Callable[[], None]
) -> None:
    """Injects the fault and follows it until it is healed, or for as long as the timings allow."""
    restarts_before = stack.restarts(trial.service)
    trial.verdict = "fault injected"
    since = stack.inject(trial.service, trial.kind)
    tell(Happening(0.0, "fault", f"{trial.service}: {trial.kind}"))
    watch = IncidentWatch(stack.fabric_url, trial.service, since)
    begin = time.monotonic()
    with closing(watch):
        while time.monotonic() < begin + stack.timings.fault_deadline and not watch.ended:
            time.sleep(_POLL_INTERVAL)
            stack.check_servers()
            for happening in watch.poll():
                tell(happening)
            _note_progress(trial, watch)
            update()
    _judge(trial, watch, stack.restarts(trial.service) - restarts_before, stack.is_healthy(trial.service))
    update()
    after = time.monotonic() - begin if trial.healed_after is None else trial.healed_after
    word = "healed" if trial.healed else "not healed"
    tell(Happening(after, word, f"{trial.service}: {trial.verdict}"))


def _note_progress(trial: Trial, watch: IncidentWatch) -> None:
    trial.detected_after = watch.detected_after
    trial.action = _describe_actions(watch.incident.get("actions", ()))
    trial.verdict = watch.incident.get("state", trial.verdict)


def _describe_actions(actions: Sequence[Mapping[str, Any]]) -> str:
    """The strategies in order; one that did not succeed with how it ended."""
    words = []
    for action in actions:
        succeeded = action["status"] == "succeeded"
        words.append(action["strategy"] if succeeded else f"{action['strategy']} {action['status']}")
    return ", ".join(words)


def _judge(trial: Trial, watch: IncidentWatch, restarts: int, healthy: bool) -> None:
    incident = watch.incident
    outcome = incident.get("outcome")
    claimed = watch.ended and outcome == "healed"
    trial.healed = claimed and restarts == 1 and healthy
    if trial.healed:
        trial.healed_after = watch.resolved_after
        trial.verdict = "healed"
    elif not incident:
        trial.verdict = "not detected"
    else:
        claim = outcome or f"{incident.get('state')}, level {incident.get('level')}"
        trial.verdict = f"{claim}; {restarts} restart{'' if restarts == 1 else 's'}"
        trial.verdict += ", answers" if healthy else ", does not answer"
