"""Probes, metrics and errors: 503 is the only `try again`, and there is never an unexplained 500."""

from typing import Any

import pytest

from cuttable_proxy import CuttableProxy
from postgresql_server import PostgresqlServer
from self_healing_fabric.api.auth import open_to_all
from self_healing_fabric.errors import ShfError
from self_healing_fabric.store import statements


def assert_problem(response: Any, status: int) -> None:
    """The response is a problem document of this status."""
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert response.get_json()["status"] == status


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/api/v1/mode", 405)]
)
def test_errors_of_http_are_problem_documents(api: Any, method: str, path: str, status: int) -> None:
    """No HTML page anywhere."""
    assert_problem(api.client.open(path, method=method), status)


@pytest.mark.parametrize("error", [RuntimeError("secret detail"), ShfError("secret detail"), KeyError("x")])
def test_an_unexpected_error_is_a_503_without_its_details(api: Any, error: Exception) -> None:
    """A 500 would be read as 'not stored' as well, but nobody could know; the log has the details."""

    def break_down() -> Any:
        raise error

    api.app.add_url_rule("/break", view_func=open_to_all(break_down))
    response = api.client.get("/break")
    assert_problem(response, 503)
    assert response.headers["Retry-After"]
    assert "secret" not in response.text


def test_it_is_alive_while_the_process_answers(api: Any) -> None:
    """Also when the store is gone: a restart would not bring it back."""
    assert api.client.get("/healthz").status_code == 200
    api.store.close()
    assert api.client.get("/healthz").status_code == 200


def test_it_is_ready_only_while_it_takes_and_works(api: Any) -> None:
    """Not before the orchestrator runs, and not while draining."""
    assert_problem(api.client.get("/readyz"), 503)
    api.fabric.start()
    response = api.client.get("/readyz")
    assert (response.status_code, response.text) == (200, "ready\n")
    api.fabric.drain()
    assert_problem(api.client.get("/readyz"), 503)


def test_it_is_not_ready_when_the_store_cannot_write(api: Any) -> None:
    """Readiness writes, for that is what a notification needs."""
    api.fabric.start()
    api.store._backend._writer.close()
    assert_problem(api.client.get("/readyz"), 503)


def test_it_is_not_ready_while_the_disk_is_full(api: Any) -> None:
    """What only reads goes well then, and every notification is refused: it says why, and is ready again."""
    api.fabric.start()
    full = "CREATE TRIGGER full BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    api.store.write(lambda connection: connection.exec_driver_sql(full) and None)
    response = api.client.get("/readyz")
    assert_problem(response, 503)
    assert "the disk is full" in response.get_json()["detail"]
    api.store.write(lambda connection: connection.exec_driver_sql("DROP TRIGGER full") and None)
    assert api.client.get("/readyz").status_code == 200
    assert not api.store.read(statements.anything_new)


def test_it_is_not_ready_when_the_database_is_gone(
    make_api: Any, postgresql: PostgresqlServer, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the pool still holds a connection that looks open: only the server can say that it is."""
    with CuttableProxy(postgresql.port) as proxy:
        api = make_api(store=proxy.through(postgresql_url))
        # Its loop would notice, too, and leave no such connection in the pool.
        monkeypatch.setattr(api.fabric.orchestrator, "alive", lambda: True)
        assert api.client.get("/readyz").status_code == 200
        proxy.refuse()
        assert_problem(api.client.get("/readyz"), 503)
        proxy.forward()
        assert api.client.get("/readyz").status_code == 200


def test_metrics_show_the_state_of_the_store(api: Any) -> None:
    """Gauges are read when scraped, so they are right after a restart too."""
    assert api.metric("shf_service_state", service="cart") == 0.0
    assert api.metric("shf_escalation_level", service="cart") == 0.0
    incident_id = api.open("cart", state="escalated", level=2)
    assert api.client.get("/metrics").status_code == 200
    assert api.metric("shf_service_state", service="cart") == 2.0
    assert api.metric("shf_service_state", service="db") == 0.0
    assert api.metric("shf_escalation_level", service="cart") == 2.0
    start = api.metric(
        "shf_incident_start_timestamp_seconds",
        incident=incident_id,
        service="cart",
        severity="critical",
        signal="heartbeat",
    )
    assert start == api.clock()
    assert api.metric("shf_incident_state", incident=incident_id, service="cart", state="escalated") == 1.0
    number = {"service": "cart", "failure_class": "unknown", "severity": "critical", "state": "escalated"}
    assert api.metric("shf_incidents", **number) == 1.0


def test_metrics_hold_no_text_of_strangers(api: Any) -> None:
    """An unknown service is counted as `unknown`: labels of alerts must not become series."""
    api.open("stranger\nwith lines")
    text = api.client.get("/metrics").text
    assert "stranger" not in text
    number = {"service": "unknown", "failure_class": "unknown", "severity": "critical", "state": "detected"}
    assert api.metric("shf_incidents", **number) == 1.0


def test_guardrails_show_what_is_left(make_api: Any) -> None:
    """Limit and remaining exist for every service that can be acted on."""
    recovery = {"http": {"restart": "http://127.0.0.1:9/restart"}}
    api = make_api(services={"cart": {"recovery": recovery}, "db": {}}, guardrails={"max_actions": 2})
    labels = {"service": "cart", "guardrail": "max_actions"}
    assert api.metric("shf_guardrail_limit", **labels) == 2.0
    assert api.metric("shf_guardrail_remaining", **labels) == 2.0
    assert api.metric("shf_guardrail_limit", service="db", guardrail="max_actions") is None
