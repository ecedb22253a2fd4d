"""Everything that the demo and the end-to-end tests need, running: services, traffic, monitoring, the fabric.

    with Stack(directory) as stack:
        stack.wait_services_up()
        stack.inject("tokenguard", "hang")

Each part is a real process on a free loopback port, and all of them end with the `with` block, in the order
in which nobody misses what is gone: the fabric first, for it would heal services that are only being shut
down. Enter it from the main thread, or from one that lives as long as the stack (see `tether`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from shf_demo import configuration
from shf_demo.errors import DemoError
from shf_demo.fleet import FLEET, SampleService
from shf_demo.ports import reserved_ports
from shf_demo.servers import Programs, Server, find_programs
from shf_demo.signals import signals_wait
from shf_demo.supervisor import Supervisor, is_healthy
from shf_demo.timings import SHORTENED, Timings
from shf_demo.traffic import Traffic

_UP_DEADLINE = 30.0  # seconds until Prometheus has seen every service
_UP_CHECKS = ('up{job="services"}', 'probe_success{job="health"}')
_HTTP_TIMEOUT = 5.0  # seconds
_FABRIC = "import sys; from self_healing_fabric.cli import main; sys.exit(main())"


class Stack:
    """The servers have the names `fabric`, `prometheus`, `alertmanager` and `blackbox`."""

    prometheus: Server
    alertmanager: Server
    blackbox: Server
    fabric: Server
    supervisor: Supervisor
    _prometheus_flags: tuple[str, ...] = ()

    def __init__(
        self, workdir: Path, *, timings: Timings = SHORTENED, services: Sequence[SampleService] = FLEET
    ) -> None:
        self.workdir = workdir
        self.timings = timings
        self.services = tuple(services)
        self.configuration_file = workdir / "shf.yaml"
        self._running = ExitStack()
        # Proxies of the environment have no business between loopback servers.
        self._http = httpx.Client(timeout=_HTTP_TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            programs = find_programs()
            starting.enter_context(self._http)
            urls = [f"http://127.0.0.1:{port}" for port in starting.enter_context(reserved_ports(4))]
            self.prometheus_url, self.alertmanager_url, self.blackbox_url, self.fabric_url = urls
            self.supervisor = starting.enter_context(self._new_supervisor())
            ports = [self.supervisor.state(service.name).port for service in self.services]
            starting.enter_context(self._traffic())
            for name, content in self._files(ports).items():
                configuration.write(self.workdir / name, content)
            self._define_servers(programs)
            for server in self.servers():
                with signals_wait():
                    starting.enter_context(server)
            for server in self.servers():
                server.wait_ready()
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def servers(self) -> tuple[Server, ...]:
        """In the order of their start."""
        return self.blackbox, self.alertmanager, self.prometheus, self.fabric

    def check_servers(self) -> None:
        """DemoError when one of the servers has ended by itself."""
        for server in self.servers():
            server.check_running()

    def inject(self, service: str, kind: str, **details: float) -> datetime:
        """Breaks the service for real; returns when."""
        port = self.supervisor.state(service).port
        order = {"kind": kind, **details}
        at = datetime.now(UTC)
        self._http.post(f"http://127.0.0.1:{port}/fault", json=order).raise_for_status()
        return at

    def restarts(self, service: str) -> int:
        """How often the service was restarted, counted at the target."""
        return self.supervisor.state(service).restarts

    def is_healthy(self, service: str) -> bool:
        """Whether the health endpoint answers 200 now, asked directly."""
        path = next(sample.health_path for sample in self.services if sample.name == service)
        return is_healthy(self.supervisor.state(service).port, path)

    def ask_prometheus(self, query: str) -> float | None:
        """The value of a query with one series as its answer; None without an answer."""
        answer = self._http.get(f"{self.prometheus_url}/api/v1/query", params={"query": query})
        result = answer.raise_for_status().json()["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def wait_for(self, what: str, condition: Callable[[], bool], deadline: float) -> None:
        """DemoError when the condition does not hold within `deadline` seconds, or a server ended."""
        end = time.monotonic() + deadline
        while not condition():
            self.check_servers()
            if time.monotonic() > end:
                raise DemoError(f"{what}: not within {deadline:.0f} s; the logs are in {self.workdir}")
            time.sleep(0.2)

    def wait_services_up(self) -> None:
        """Until Prometheus has scraped and probed every service with success."""

        def all_up() -> bool:
            answers = [self.ask_prometheus(f"count({check} == 1)") for check in _UP_CHECKS]
            return answers == [len(self.services)] * len(_UP_CHECKS)

        self.wait_for("all services up in Prometheus", all_up, _UP_DEADLINE)

    def has_latency_baseline(self, service: str) -> bool:
        query = f'service:shf_latency:p95_seconds_baseline{{service="{service}"}}'
        return self.ask_prometheus(query) is not None

    def _new_supervisor(self) -> Supervisor:
        return Supervisor(self.services, self.workdir)

    def _traffic(self) -> Traffic:
        """The users, not yet asking."""
        return Traffic(self.supervisor.state(service.name).port for service in self.services)

    def _files(self, ports: Sequence[int]) -> dict[str, dict[str, Any]]:
        """The configuration files by name."""
        health_urls = {service.name: self.supervisor.health_url(service.name) for service in self.services}
        urls = {
            "prometheus": self.prometheus_url,
            "alertmanager": self.alertmanager_url,
            "blackbox": self.blackbox_url,
            "fabric": self.fabric_url,
            "supervisor": self.supervisor.url,
        }
        addresses = {name: _address(url) for name, url in urls.items()}
        for service, port in zip(self.services, ports, strict=True):
            addresses[service.name] = f"127.0.0.1:{port}"
        return {
            "prometheus.yml": configuration.prometheus(self.workdir, self.timings, health_urls, addresses),
            "alertmanager.yml": configuration.alertmanager(self.fabric_url),
            "blackbox.yml": configuration.blackbox(),
            "shf.yaml": configuration.fabric(self.workdir, self.timings, self.services, health_urls, urls),
        }

    def _define_servers(self, programs: Programs) -> None:
        self.blackbox = self._server(
            "blackbox",
            [
                programs.blackbox,
                f"--config.file={self.workdir / 'blackbox.yml'}",
                f"--web.listen-address={_address(self.blackbox_url)}",
                "--timeout-offset=0.1",  # seconds left of the scrape timeout; the default leaves half of 1 s
                "--log.level=warn",
            ],
            f"{self.blackbox_url}/-/healthy",
        )
        self.alertmanager = self._server(
            "alertmanager",
            [
                programs.alertmanager,
                f"--config.file={self.workdir / 'alertmanager.yml'}",
                f"--storage.path={self.workdir / 'alertmanager'}",
                f"--web.listen-address={_address(self.alertmanager_url)}",
                "--cluster.listen-address=",  # a single one; it would listen on all interfaces else
                "--log.level=warn",
            ],
            f"{self.alertmanager_url}/-/ready",
        )
        self.prometheus = self._server(
            "prometheus",
            [
                programs.prometheus,
                f"--config.file={self.workdir / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.workdir / 'prometheus'}",
                f"--web.listen-address={_address(self.prometheus_url)}",
                "--rules.alert.resend-delay=5s",  # 1 m by default: how long a lost notification stays lost
                "--log.level=warn",
                *self._prometheus_flags,
            ],
            f"{self.prometheus_url}/-/ready",
        )
        self.fabric = self._server(
            "fabric",
            [sys.executable, "-c", _FABRIC, "serve", "--config", str(self.configuration_file)],
            f"{self.fabric_url}/readyz",
        )

    def _server(self, name: str, command: list[str], ready_url: str) -> Server:
        # A variable SHF_... of the reader's own installation would override the demo's file.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SHF_")}
        return Server(name, command, ready_url, self.workdir / f"{name}.log", environment=environment)


def _address(url: str) -> str:
    return url.removeprefix("http://")
