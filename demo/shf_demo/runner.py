"""`shf demo`: the main job from fault to proof, on real servers, for a person who watches.

Everything that is started here ends with it: after the last fault, on an error, on Ctrl-C and on SIGTERM,
at any moment, start-up included.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from shf_demo.errors import DemoError
from shf_demo.screen import Screen
from shf_demo.signals import ignore_signals, signals_interrupt
from shf_demo.stack import Stack
from shf_demo.timings import SHIPPED, SHORTENED, Timings
from shf_demo.trials import FAULT_KINDS, Trial, all_trials, run_trial

__all__ = ["FAULT_KINDS", "run"]

_USAGE = 2
_INTERRUPTED = 130  # the shell's 128 + SIGINT


def run(keep: bool = False, shipped_durations: bool = False, faults: Sequence[str] | None = None) -> int:
    """Runs the faults of these kinds (all of them by default) one after another; returns the exit status.

    Call it from the main thread: it handles signals and starts processes that are tied to this thread.
    """
    console = Console(highlight=False, soft_wrap=True)
    unknown = sorted(set(faults or ()) - set(FAULT_KINDS))
    if unknown:
        console.print(
            f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULT_KINDS)}", markup=False
        )
        return _USAGE
    trials = [trial for trial in all_trials() if not faults or trial.kind in faults]
    timings = SHIPPED if shipped_durations else SHORTENED
    workdir = Path(tempfile.mkdtemp(prefix="shf-demo-"))
    try:
        with signals_interrupt():
            status = _run_in(workdir, timings, trials, console, keep)
    except DemoError as error:
        console.print(str(error), style="red", markup=False)
        status = 1
    except KeyboardInterrupt:
        status = _INTERRUPTED
    console.print("Every process that was started has been stopped.")
    if status == 1:
        console.print(f"The logs are in {workdir}")
        _blame_a_busy_machine(console)
    else:
        shutil.rmtree(workdir, ignore_errors=True)
    return status


def _blame_a_busy_machine(console: Console) -> None:
    """A CPU fault cannot take a core that others use, and deadlines are met late: say so, it is no defect."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores:
        console.print(f"The machine is busy (load {load:.1f} on {cores} cores); try again when it is not.")


def _run_in(workdir: Path, timings: Timings, trials: list[Trial], console: Console, keep: bool) -> int:
    console.print("Starting the services, Prometheus, Alertmanager, the blackbox exporter and the fabric ...")
    with Stack(workdir, timings=timings) as stack:
        try:
            with Screen(console) as screen:
                screen.durations(timings)
                _run_trials(stack, trials, screen)
            screen.result(trials)
            if keep:
                _wait_for_the_end(stack, screen)
        finally:
            ignore_signals()
    return 0 if all(trial.healed for trial in trials) else 1


def _run_trials(stack: Stack, trials: list[Trial], screen: Screen) -> None:
    up_at = time.monotonic()
    stack.wait_services_up()
    screen.say(f"Prometheus at {stack.prometheus_url} sees {len(stack.services)} services answer.", "bold")
    nothing_healed_yet = True
    for trial in trials:
        screen.update(trials)
        if trial.needs_baseline:
            _wait_for_baseline(stack, trial.service, screen)
        screen.say("")
        run_trial(trial, stack, screen.happened, lambda: screen.update(trials))
        if trial.healed and nothing_healed_yet:
            nothing_healed_yet = False
            seconds = time.monotonic() - up_at
            screen.say(f"First fault healed {seconds:.0f} s after the servers were up.", "bold")


def _wait_for_baseline(stack: Stack, service: str, screen: Screen) -> None:
    if stack.has_latency_baseline(service):
        return
    screen.say(f"\nWaiting until Prometheus has learnt what latency is normal for {service} ...", "cyan")
    begin = time.monotonic()
    stack.wait_for(
        f"latency baseline of {service}",
        lambda: stack.has_latency_baseline(service),
        stack.timings.baseline_deadline,
    )
    screen.say(f"It has, after {time.monotonic() - begin:.0f} s.", "cyan")


def _wait_for_the_end(stack: Stack, screen: Screen) -> None:
    """Until Ctrl-C. The verdict of the faults stays the exit status."""
    screen.say("\nStill running:", "bold")
    addresses = {
        "pages": f"{stack.fabric_url}/",
        "Prometheus": stack.prometheus_url,
        "Alertmanager": stack.alertmanager_url,
        "services": f"{stack.supervisor.url}/services",
        "files": str(stack.workdir),
    }
    for name, address in addresses.items():
        screen.say(f"  {name:<13} {address}")
    victim = stack.supervisor.state(stack.services[-1].name)
    screen.say("Break something, and watch it heal:")
    screen.say(f'  curl -d \'{{"kind": "hang"}}\' http://127.0.0.1:{victim.port}/fault   # {victim.name}')
    screen.say("Ctrl-C stops everything.")
    try:
        while True:
            stack.check_servers()
            time.sleep(1)
    except KeyboardInterrupt:
        screen.say("Stopping ...")
