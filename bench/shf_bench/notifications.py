"""Bodies as Alertmanager sends them, made so fast that the load generator does not measure itself.

A body is one template, taken from a real notification, in which only the fingerprints and, in a notification
of one alert, the service change. Each alert of each request is a new one to the fabric.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

_REQUEST = "@REQUEST"  # as long as the number that takes its place, so that the length stays the same
_SERVICE = "@SVC00"
LAST = "last"  # a service of which there is one alert only: it is sent last


def service_name(number: int) -> str:
    """The name of a service of the benchmark."""
    return f"s{number:05d}"


@dataclass(frozen=True)
class Notifications:
    """Bodies with `alerts` alerts each.

    Attributes:
        alerts: in each body.
        services: how many are named, in turns.
        first: the number of the first body; bodies of other numbers hold other alerts.
        first_service: the number of the first service that a body of several alerts names.
        stranger: name services that nobody has configured.
    """

    alerts: int
    services: int
    first: int = 0
    first_service: int = 0
    stranger: bool = False

    def template(self) -> str:
        """The body with its placeholders."""
        numbers = range(self.first_service, self.first_service + self.alerts)
        names = [_SERVICE] if self.alerts == 1 else [self._name(number) for number in numbers]
        return _body([(name, f"{_REQUEST}{number:08x}") for number, name in enumerate(names)])

    def body(self, template: str, number: int) -> bytes:
        """The body of a request."""
        text = template.replace(_REQUEST, f"{self.first + number:08x}")
        if self.alerts == 1:
            text = text.replace(_SERVICE, self._name(self.first + number))
        return text.encode()

    def _name(self, number: int) -> str:
        name = service_name(number % self.services)
        return f"x{name[1:]}" if self.stranger else name


def last() -> bytes:
    """The notification that is sent last: when it is worked in, so are all before it."""
    return _body([(LAST, "f" * 16)]).encode()


def _body(alerts: list[tuple[str, str]]) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    common = {"alertname": "ShfHeartbeatMissed", "cluster": "c1", "namespace": "shop", "signal": "heartbeat"}
    common |= {"severity": "critical"}
    listed = [
        {
            "status": "firing",
            "labels": common | {"service": service, "instance": f"10.0.0.1:{fingerprint[-4:]}"},
            "annotations": {
                "summary": f"shop/{service} has not answered for 30s",
                "description": f"No target of {service} answered in the last 30s.",
                "runbook_url": "https://example.org/runbooks/ShfHeartbeatMissed.md",
                "value": "0",
                "threshold": "30",
                "unit": "s",
                "verify_query": f'service:shf_up:ratio{{service="{service}"}}',
            },
            "startsAt": at,
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus.example:9090/graph?g0.expr=service%3Ashf_heartbeat%3Aanswered&g0.tab=1",
            "fingerprint": fingerprint,
        }
        for service, fingerprint in alerts
    ]
    message = {
        "receiver": "self-healing-fabric",
        "status": "firing",
        "alerts": listed,
        "groupLabels": {"alertname": "ShfHeartbeatMissed"},
        "commonLabels": common,
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example:9093",
        "version": "4",
        "groupKey": '{}:{alertname="ShfHeartbeatMissed"}',
        "truncatedAlerts": 0,
    }
    return json.dumps(message, separators=(",", ":"))
