"""The launchers, as many as the machine can use, and what they have told so far.

Each is a process of its own, for a process with threads, such as pytest's, must not fork.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shf_demo.tether import tethered

Job = Mapping[str, Any]
Report = dict[str, Any]
Told = Mapping[str, Sequence[Future[Report]]]  # by point, one for each seed

HERE = Path(__file__).parent
MEMORY = Path("/dev/shm")  # noqa: S108 - only processes die here, no machine: fsync need not reach a disk


class Crew:
    """`begin` hands a story to whichever launcher is free."""

    def __init__(self, launchers: list[subprocess.Popen[str]]) -> None:
        self._free: queue.Queue[subprocess.Popen[str]] = queue.Queue()
        for launcher in launchers:
            self._free.put(launcher)
        self._threads = ThreadPoolExecutor(len(launchers), thread_name_prefix="crew")
        self.counts: Counter[str] = Counter()

    def begin(self, *jobs: Job) -> Future[Report]:
        """Have a story told; when its process did not die as planned, the next one instead."""
        return self._threads.submit(self._tell_one_of, jobs)

    def tell(self, job: Job) -> Report:
        """Have a story told, and wait for it."""
        return self.begin(job).result()

    def close(self) -> None:
        """Begin no more stories, and wait for those that are being told."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _tell_one_of(self, jobs: tuple[Job, ...]) -> Report:
        for job in jobs:
            report = self._tell(job)
            if report["problems"] or missed(job, report) is None:
                break
            self.counts["told again"] += 1
        return report

    def _tell(self, job: Job) -> Report:
        launcher = self._free.get()
        try:
            assert launcher.stdin is not None
            assert launcher.stdout is not None
            launcher.stdin.write(json.dumps(dict(job)) + "\n")
            launcher.stdin.flush()
            line = launcher.stdout.readline()
            if not line:
                raise RuntimeError(f"a launcher ended with status {launcher.wait()}; see its log")
            report: Report = json.loads(line)
        finally:
            self._free.put(launcher)
        report["job"] = job
        self.counts["stories"] += 1
        self.counts["kills"] += len(report.get("deaths", ()))
        for name in ("effects", "indeterminate"):
            self.counts[name] += report.get(name, 0)
        return report


def missed(job: Job, report: Report) -> str | None:
    """The point at which a process was to die and did not; None: all died that had to."""
    wanted = Counter(life["kill"]["point"] for life in job["lives"] if life.get("must"))
    left = wanted - Counter(report["deaths"])
    return next(iter(left), None)


def assert_well_told(futures: Sequence[Future[Report]]) -> None:
    """Fail with the story and its log when one of them did not end as it must."""
    for future in futures:
        report = future.result()
        job, log = report["job"], "\n".join(report.get("log", ()))
        assert not report["problems"], f"{job}\n{report['problems']}\n{report.get('deaths')}\n{log}"
        assert missed(job, report) is None, f"{job}: no process died as planned"


@contextmanager
def running_crew() -> Iterator[Crew]:
    """Start the launchers; all are ended afterwards, with whatever they have started."""
    base = MEMORY if os.access(MEMORY, os.W_OK) else None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHF_")}
    path = [str(HERE.parent), str(HERE), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    environment["OPENBLAS_NUM_THREADS"] = "1"  # its threads would not survive a fork
    launchers: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory(prefix="shf-crash-", dir=base) as folder:
        try:
            for number in range((os.cpu_count() or 1) + 1):
                with (Path(folder) / f"launcher-{number}.log").open("w") as log:
                    launchers.append(
                        subprocess.Popen(
                            tethered([sys.executable, str(HERE / "launcher.py"), folder]),
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            stderr=log,
                            text=True,
                            env=environment,
                        )
                    )
            crew = Crew(launchers)
            begun = time.monotonic()
            try:
                yield crew
            finally:
                crew.close()
                crew.counts["seconds"] = round(time.monotonic() - begun)
        finally:
            for launcher in launchers:
                launcher.kill()
                launcher.communicate()
