"""A real Prometheus over samples of the past that a test makes up: what a query gives there is known."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shf_demo.ports import reserved_ports
from shf_demo.servers import Server


@contextmanager
def past_prometheus(directory: Path, lines: Iterable[str], *, lookback: float | None = None) -> Iterator[str]:
    """Serve these lines of OpenMetrics, each sample with its time; yields the URL.

    A series that ends is gone `lookback` seconds later: what is imported has none of the marks with which a
    scrape or a rule ends a series at once. Skips loudly without the programs, and fails on CI.
    """
    programs = {name: shutil.which(name) for name in ("prometheus", "promtool")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        if os.environ.get("CI"):
            pytest.fail(f"not on PATH: {', '.join(missing)}")
        pytest.skip(f"NOT TESTED: {', '.join(missing)} not on PATH")
    samples, data, configuration = (directory / name for name in ("samples.om", "data", "prometheus.yml"))
    samples.write_text("\n".join([*lines, "# EOF", ""]))
    importing = [str(programs["promtool"]), "tsdb", "create-blocks-from", "openmetrics"]
    subprocess.run([*importing, str(samples), str(data)], check=True, capture_output=True, timeout=300)
    configuration.write_text("global: {}\n")
    with reserved_ports(1) as (port,):
        url = f"http://127.0.0.1:{port}"
        command = [str(programs["prometheus"]), f"--config.file={configuration}"]
        command += [f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"]
        command += ["--storage.tsdb.retention.time=100y", "--log.level=warn"]
        if lookback is not None:
            command.append(f"--query.lookback-delta={lookback * 1000:.0f}ms")
        log = directory / "prometheus.log"
        with Server("prometheus", command, f"{url}/-/ready", log, environment=os.environ) as server:
            server.wait_ready()
            yield url
