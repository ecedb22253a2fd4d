"""Which versions of Prometheus and Alertmanager answer, for the status page.

People who report a fault are asked for them first. They are asked for once, and again when a server was away
in between, for that is when versions change, or after an hour. What stands in for Prometheus need not tell
its version: then it is unknown, and that is no fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx
import structlog

from self_healing_fabric import outbound, servers_asked
from self_healing_fabric.outbound import Client
from self_healing_fabric.quoting import quoted
from self_healing_fabric.settings import AlertmanagerSettings, Settings
from shf_queries import PrometheusClient, QueryError

log = structlog.get_logger()

ASK_AGAIN = 3600.0  # seconds


@dataclass(frozen=True)
class _Told:
    version: str | None
    at: float  # seconds since 1970
    failed_at: float | None  # when the server had failed last, as of then


class VersionWatch:
    """Holds the newest answers, by the kind of the server."""

    def __init__(self, settings: Settings, prometheus: PrometheusClient, http: Client) -> None:
        self._prometheus, self._http = prometheus, http
        self._asking: dict[str, tuple[str, Callable[[], str | None]]] = {
            "prometheus": (settings.prometheus.url, prometheus.version)
        }
        alertmanager = settings.alertmanager
        if alertmanager is not None:
            self._asking["alertmanager"] = (alertmanager.url, lambda: self._of_alertmanager(alertmanager))
        self._told: dict[str, _Told] = {}

    def version(self, kind: str) -> str | None:
        """The version of the server of a kind; None: not asked, or not told."""
        told = self._told.get(kind)
        return None if told is None else told.version

    def refresh(self, now: float) -> None:
        """Ask those of which it is not known; a server that does not answer just now is left alone."""
        for kind, (url, ask) in self._asking.items():
            seen = next(iter(servers_asked.known(kind, url)), None)
            if seen is not None and seen.answers is False:
                continue
            failed_at = None if seen is None else seen.failed_at
            told = self._told.get(kind)
            if told is not None and told.failed_at == failed_at and 0 <= now - told.at < ASK_AGAIN:
                continue
            try:
                version = ask()
            except (QueryError, httpx.HTTPError, OSError, LookupError, TypeError, ValueError) as error:
                log.info("version_not_told", server=kind, error=str(error) or type(error).__name__)
                version = None
            self._told[kind] = _Told(quoted(version) if version else None, now, failed_at)

    def _of_alertmanager(self, settings: AlertmanagerSettings) -> str | None:
        headers = settings.headers()
        answer = self._http.get(f"{settings.url}/api/v2/status", headers=headers, timeout=settings.timeout)
        version = outbound.succeeded(answer).json()["versionInfo"]["version"]
        return version if isinstance(version, str) else None
