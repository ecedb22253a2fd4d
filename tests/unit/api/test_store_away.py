"""The API while the store is away: 503 with Retry-After, and nothing that was acknowledged is lost.

Alertmanager repeats a 5xx within moments and forgets a 2xx for hours, so the two must never be mixed up.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url, text
from werkzeug.test import TestResponse

from cuttable_proxy import CuttableProxy
from deadline import within_deadline
from postgresql_server import PostgresqlServer, temporary_postgresql
from self_healing_fabric.store import postgresql as backend

PATH = "/api/v1/alerts"
BODIES = Path(__file__).parents[2] / "data" / "webhook"
FIRING = json.loads((BODIES / "firing_single.json").read_text())
MakeApi = Callable[..., Any]


def body(fingerprint: str, **changes: Any) -> dict[str, Any]:
    """A notification of one alert."""
    return {**FIRING, "alerts": [{**FIRING["alerts"][0], "fingerprint": fingerprint, **changes}]}


def post(api: Any, fingerprint: str) -> TestResponse:
    """Send it, as a connection of its own would."""
    answer: TestResponse = api.app.test_client().post(PATH, json=body(fingerprint))
    return answer


def kept(api: Any) -> set[str]:
    """The fingerprints of the notifications in the inbox."""
    return {json.loads(each)["alerts"][0]["fingerprint"] for each in api.inbox()}


def refused(response: TestResponse) -> str:
    """It is a 503 that asks to come again; returns what it says."""
    assert response.status_code == 503, response.text
    assert int(response.headers["Retry-After"]) > 0
    assert response.content_type == "application/problem+json"
    detail = response.get_json()["detail"]
    assert detail
    return str(detail)


@pytest.fixture
def proxy(postgresql: PostgresqlServer) -> Iterator[CuttableProxy]:
    """What stands between the fabric and its database."""
    with CuttableProxy(postgresql.port) as proxy:
        yield proxy


@pytest.fixture
def far(make_api: MakeApi, proxy: CuttableProxy, postgresql_url: str) -> Any:
    """A fabric whose database is behind the proxy."""
    return make_api(store=proxy.through(postgresql_url))


def test_what_was_answered_with_202_is_in_the_database(make_api: MakeApi, postgresql_url: str) -> None:
    """Another session sees it: the commit came before the answer."""
    api = make_api(store=postgresql_url)
    location = make_url(postgresql_url).set(drivername="postgresql").render_as_string()
    with closing(psycopg.connect(location)) as other:
        assert post(api, "a").status_code == 202
        (stored,) = other.execute("SELECT body FROM inbox").fetchall()
    assert json.loads(stored[0]) == body("a")


@pytest.mark.parametrize("path", sorted(BODIES.glob("*.json")), ids=lambda path: path.stem)
def test_what_alertmanager_sends_is_taken_in(make_api: MakeApi, postgresql_url: str, path: Path) -> None:
    """On PostgreSQL as on SQLite: every alert of the body, labels and annotations unchanged."""
    api = make_api(store=postgresql_url)
    sent = json.loads(path.read_text())["alerts"]
    assert api.client.post(PATH, data=path.read_bytes()).status_code == 202
    api.fabric.orchestrator.take_in()
    columns = text(
        "SELECT fingerprint, status, labels, annotations FROM alerts ORDER BY fingerprint, starts_at"
    )
    rows = api.store.read(lambda connection: connection.execute(columns).all())
    expected = [(each["fingerprint"], each["status"], each["labels"], each["annotations"]) for each in sent]
    assert sorted(map(repr, map(tuple, rows))) == sorted(map(repr, expected))
    assert api.inbox() == []


def test_a_character_that_postgresql_cannot_store_loses_no_alert(
    make_api: MakeApi, postgresql_url: str
) -> None:
    """NUL in a label, an annotation and the fingerprint: acknowledged, taken in, with an incident."""
    api = make_api(store=postgresql_url)
    labels = {"alertname": "a\x00b", "service": "cart", "severity": "critical"}
    sent = body("f\x00g", labels=labels, annotations={"summary": "\x00"})
    assert api.client.post(PATH, json=sent).status_code == 202
    api.fabric.orchestrator.take_in()
    assert api.inbox() == []
    (incident,) = api.client.get("/api/v1/incidents").get_json()["incidents"]
    assert incident["service"] == "cart"


def test_without_the_database_nothing_is_acknowledged(far: Any, proxy: CuttableProxy) -> None:
    """Cut off: 503 at once; back again: the repetition is stored, and what was before is there."""
    assert post(far, "before").status_code == 202
    proxy.refuse()
    refused(within_deadline(lambda: post(far, "cut")))
    proxy.forward()
    assert kept(far) == {"before"}
    assert post(far, "cut").status_code == 202
    assert kept(far) == {"before", "cut"}


def test_a_database_that_answers_nothing_is_a_503_in_time(
    far: Any, proxy: CuttableProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Alertmanager gives up by itself; many notifications at once hold up none of them."""
    monkeypatch.setattr(far.store._backend._watchdog, "patience", 2.0)
    assert post(far, "before").status_code == 202
    proxy.blackhole()
    with ThreadPoolExecutor(30) as pool:
        answers = [pool.submit(post, far, f"lost{number}") for number in range(30)]
        _, waiting = wait(answers, timeout=30)  # one after the other they would take a minute
        proxy.forward()
    assert not waiting
    for answer in answers:
        refused(answer.result())
    assert post(far, "after").status_code == 202
    assert kept(far) == {"before", "after"}


PATHS = ["/api/v1/incidents", "/api/v1/incidents/i1", "/api/v1/status", "/api/v1/mode", "/metrics"]


def test_every_path_says_that_it_cannot(far: Any, proxy: CuttableProxy) -> None:
    """No traceback, no empty list that looks like health; and the process itself is alive."""
    proxy.refuse()
    for path in PATHS:
        refused(far.client.get(path))
    refused(far.client.put("/api/v1/mode", json={"mode": "approval"}))
    refused(far.client.post("/api/v1/incidents/i1/close", json={}))
    assert far.client.get("/healthz").status_code == 200
    proxy.forward()
    assert far.client.get("/api/v1/mode").get_json() == {"mode": "automatic"}
    assert far.client.get("/metrics").status_code == 200


def test_the_kill_switch_holds_while_the_database_is_away(far: Any, proxy: CuttableProxy) -> None:
    """In the process that was told, which says that nobody else knows of it."""
    proxy.refuse()
    told = refused(far.client.put("/api/v1/mode", json={"mode": "paused"}))
    assert "nothing more begins here, but the pause could not be stored" in told
    proxy.forward()
    assert far.client.get("/api/v1/mode").get_json() == {"mode": "paused"}


def test_a_restart_of_the_database_loses_nothing_that_was_acknowledged(
    postgresql: PostgresqlServer, make_api: MakeApi
) -> None:
    """Crashed and stopped under a stream of notifications: 202 is in the inbox, all else is 503."""
    with temporary_postgresql() as server:
        api = make_api(store=server.url)
        stopping = threading.Event()
        answers: dict[str, TestResponse] = {}

        def send(number: int) -> None:
            sent = 0
            while not stopping.is_set():
                sent += 1
                name = f"{number}/{sent}"
                answers[name] = post(api, name)

        with ThreadPoolExecutor(4) as pool:
            senders = [pool.submit(send, number) for number in range(4)]
            try:
                for mode in ("immediate", "fast"):
                    time.sleep(0.3)
                    server.restart(mode)  # type: ignore[arg-type]
                before = set(answers)
                time.sleep(0.5)
            finally:
                stopping.set()
            for sender in senders:
                sender.result()
        acknowledged = {name for name, answer in answers.items() if answer.status_code == 202}
        others = [answer for answer in answers.values() if answer.status_code != 202]
        for answer in others:
            refused(answer)
        assert others
        assert acknowledged - before
        assert acknowledged <= kept(api)
        api.fabric.stop()


def test_a_full_disk_under_the_database_is_a_503(
    make_api: MakeApi, new_postgresql_url: Callable[[], str]
) -> None:
    """It is told at once and not tried again; when there is room again, so is the next one stored."""
    api = make_api(store=new_postgresql_url())
    trigger = (
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE SQLSTATE '53100' USING MESSAGE = 'could not extend file: No space left on device'; END $$",
        "CREATE TRIGGER no_room BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION no_room()",
    )
    for statement in trigger:
        api.store.write(lambda c, statement=statement: c.execute(text(statement)) and None)
    assert "No space left on device" in refused(post(api, "a"))
    api.store.write(lambda c: c.execute(text("DROP TRIGGER no_room ON inbox")) and None)
    assert post(api, "b").status_code == 202
    assert kept(api) == {"b"}


def test_a_database_that_only_reads_does_not_look_like_a_fabric_that_works(
    make_api: MakeApi, new_postgresql_url: Callable[[], str]
) -> None:
    """Its pages and its status can be read on; who looks there must not have to go by the log."""
    url = make_url(new_postgresql_url())
    api = make_api(store=url.render_as_string(hide_password=False))
    location = url.set(drivername="postgresql").render_as_string(hide_password=False)

    def told() -> list[str]:
        problems = api.client.get("/api/v1/status").get_json()["problems"]
        return [each for each in problems if "takes no notifications" in each]

    assert told() == []
    with closing(psycopg.connect(location, autocommit=True)) as administrator:
        name = sql.Identifier(url.database or "")
        administrator.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name)
        )
        administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        refused(post(api, "a"))
        assert "read-only transaction" in told()[0]
        page = api.client.get("/", headers={"Accept": "text/html"}).text
        assert "▲ no: it takes no notifications: cannot store" in page
        administrator.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
    assert post(api, "b").status_code == 202
    assert told() == []


def test_a_full_disk_under_the_file_is_a_503(api: Any) -> None:
    """SQLite: the same, with its own words."""
    pages = api.store.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    assert post(api, "a").status_code == 202
    limit = f"PRAGMA max_page_count={pages + 1}"
    api.store.write(lambda connection: connection.exec_driver_sql(limit) and None)
    large = body("large", annotations={"summary": "x" * 100_000})
    assert "full" in refused(api.client.post(PATH, json=large))
    api.store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1000000") and None)
    assert kept(api) == {"a"}
    assert api.client.post(PATH, json=large).status_code == 202
    assert kept(api) == {"a", "large"}


def test_a_fabric_that_stops_stores_what_it_acknowledges(make_api: MakeApi, postgresql_url: str) -> None:
    """While it drains and when its store is closed: 503, and what came before is there for the next one."""
    api = make_api(store=postgresql_url)
    assert post(api, "before").status_code == 202
    api.fabric.drain()
    refused(post(api, "draining"))
    api.fabric.stop()
    assert "shutting down" in refused(post(api, "closed"))
    following = make_api(store=postgresql_url)
    assert kept(following) == {"before"}


def test_more_notifications_than_connections_are_a_503_and_not_a_queue(
    make_api: MakeApi, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds every connection: the notification is refused in time, and stored when sent again."""
    monkeypatch.setattr(backend, "POOL_SIZE", 1)
    monkeypatch.setattr(backend, "POOL_TIMEOUT", 0.3)
    api = make_api(store=postgresql_url)
    holding, release = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        holding.set()
        release.wait(5)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(api.store.write, hold)
        holding.wait(5)
        refused(post(api, "late"))
        release.set()
        holder.result(5)
    assert post(api, "late").status_code == 202
