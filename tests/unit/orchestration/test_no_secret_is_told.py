"""Canaries: every secret that a configuration can hold is planted, all goes wrong, and none is told anywhere.

Not in a log, an answer of the API, a problem document, a metric, a page, an output of the command, a message
to people, nor in what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pytest_httpserver import HTTPServer
from sqlalchemy import text
from werkzeug import Request, Response

from self_healing_fabric.app import create_app
from self_healing_fabric.cli import main
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.errors import ConfigurationError, StoreUnavailable
from self_healing_fabric.escalation.channels import Receipt
from self_healing_fabric.orchestration.approval_links import approval_links
from self_healing_fabric.orchestration.questions import KEY
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import Store, examine, statements

CANARY = "canary-secret"
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[str], str]:
    """A file with a secret of its own."""

    def make(name: str) -> str:
        path = tmp_path / f"{name}.secret"
        path.write_text(f"{CANARY}-{name}\n")
        return str(path)

    return make


def test_no_secret_is_told_anywhere(
    make_world: Callable[..., Any],
    httpserver: HTTPServer,
    secret: Callable[[str], str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The target fails and repeats what it was sent, as careless programs do; so does everybody else."""
    heard: list[str] = []

    def repeat(request: Request) -> Response:
        heard.append(request.headers.get("Authorization", ""))
        return Response(f"bad: {dict(request.headers)}", status=500, headers={"X-Was": heard[-1]})

    httpserver.expect_request("/echo/restart").respond_with_handler(repeat)
    httpserver.expect_request("/echo/state").respond_with_handler(repeat)
    httpserver.expect_request("/guardian").respond_with_handler(repeat)
    urls = tmp_path / "apprise.urls"
    urls.write_text(f"json://user:{CANARY}-apprise@127.0.0.1:9/\n")
    recovery = {
        "restart": httpserver.url_for("/echo/restart"),
        "bearer_token_file": secret("target"),
    }
    channels = {
        "guard": {"guardian": {"url": httpserver.url_for("/guardian"), "secret_file": secret("guardian")}},
        "chat": {"apprise": {"urls_file": str(urls)}},
    }
    levels = [
        {"name": f"level {n}", "call": ["guard", "chat"] if n else [], "deadline": 30} for n in range(5)
    ]
    values = {
        "auth": {
            "token_file": secret("token"),
            "callers": {
                "ops": {"rights": ["control"], "username": "ops", "password_file": secret("password")},
                "am": {"rights": ["send"], "token_file": secret("sender")},
            },
        },
        "prometheus": {
            "scrape_interval": 1, "evaluation_interval": 1, "bearer_token_file": secret("prometheus"),
        },
        "alertmanager": {"url": CLOSED, "bearer_token_file": secret("alertmanager")},
        "services": {"cart": {"recovery": {"http": recovery}}},
        "escalation": {"channels": channels, "levels": levels},
        "external_url": "https://shf.example.com",
        "mode": "approval",
    }  # fmt: skip
    world = make_world(None, **values)
    world.fabric.context = world.context
    messages: list[str] = []

    def log_channel(message: Any, _: Any) -> Receipt:
        messages.append(f"{message.title}{message.body}{message.document}")
        return Receipt()

    world.send = log_channel
    client = create_app(world.fabric).test_client()
    ops = ("ops", f"{CANARY}-password")
    world.silent()
    world.receive(world.alert())
    world.run(1)
    told = ""
    incident = world.incident().id
    links = approval_links(world.context, incident, "on-call")
    key = world.context.store.read(lambda connection: statements.control(connection, KEY)).value
    wrong = {"Authorization": f"Bearer {CANARY}-presented"}
    for headers in ({}, wrong, {"Authorization": "Basic " + CANARY}):
        told += client.get("/api/v1/mode", headers=headers).text
    told += client.get(f"/approvals/{CANARY}").text
    told += client.put("/api/v1/mode", auth=ops, json={"mode": "approval", "by": "ada"}).text
    told += client.post(f"/api/v1/incidents/{incident}/approve", auth=ops, json={"x": CANARY}).text
    told += client.post(f"/api/v1/incidents/{incident}/approve", auth=ops, json={}).text
    world.run(200)
    assert f"Bearer {CANARY}-target" in heard, "the secret was used"
    for path in (
        "incidents",
        f"incidents/{incident}",
        "status",
        "strategies",
        "targets",
        "mode",
        "openapi.json",
    ):
        answer = client.get(f"/api/v1/{path}", auth=ops)
        assert answer.status_code == 200
        told += answer.text
    for path in ("/", f"/incidents/{incident}", "/metrics", "/nothing"):
        told += client.get(path, auth=ops).text
    (tmp_path / "shf.yaml").write_text(yaml.safe_dump(world.values, default_flow_style=False))
    for command in (["check"], ["check", "--json"], ["drift"], ["incidents"], ["audit", "verify"]):
        result = CliRunner().invoke(main, [*command, "--config", str(tmp_path / "shf.yaml")])
        told += result.output + repr(result.exception)
    told += repr(world.context.settings) + str(world.context.settings)
    stored = _everything_stored(world)
    told += "".join(capfd.readouterr())
    for secret_text in (CANARY, key):
        assert secret_text not in told
    assert CANARY not in stored + "".join(messages)
    assert messages
    assert links["approve"].rpartition("/")[2] not in told + stored, "a link is a credential too"


def _everything_stored(world: Any) -> str:
    def read(connection: Any) -> str:
        names = (
            connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        )
        assert {"timeline", "actions", "calls", "controls"} <= set(names)
        rows = [
            [dict(row) for row in connection.execute(text(f'SELECT * FROM "{name}"')).mappings()]  # noqa: S608
            for name in names
        ]
        return json.dumps(rows, default=repr)

    return str(world.context.store.read(read))


@pytest.mark.parametrize("url", [f"http://user:{CANARY}@127.0.0.1:9", f"http://{CANARY}@127.0.0.1:9"])
@pytest.mark.parametrize(
    "where",
    [
        ("prometheus", "url"),
        ("alertmanager", "url"),
        ("external_url",),
        ("services", "cart", "health"),
        ("services", "cart", "recovery", "http", "restart"),
    ],
)
def test_a_url_with_a_password_is_refused_without_telling_it(
    tmp_path: Path, where: tuple[str, ...], url: str
) -> None:
    """URLs are shown everywhere; the refusal names the setting and not what stands there."""
    content: Any = url
    for part in reversed(where):
        content = {part: content}
    path = tmp_path / "shf.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    assert ".".join(where) in {problem.path for problem in caught.value.problems}
    assert "leave user and password out of the URL" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_the_password_of_the_database_is_told_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], secret: Callable[[str], str]
) -> None:
    """In the URL or in a file, when the server is away."""
    url = f"postgresql+psycopg://user:{CANARY}@127.0.0.1:9/shf"
    file = Path(secret("database"))
    told = repr(Settings(store="postgresql+psycopg://user@127.0.0.1:9/shf", store_password_file=file))
    for password_file in (None, file):
        for use in (lambda f=password_file: examine(url, f), lambda f=password_file: Store(url, f)):
            with pytest.raises(StoreUnavailable) as caught:
                use()
            told += str(caught.value)
    (tmp_path / "shf.yaml").write_text(yaml.safe_dump({"store": url, "prometheus": {"url": CLOSED}}))
    for command in (["check"], ["audit", "head"]):
        told += CliRunner().invoke(main, [*command, "--config", str(tmp_path / "shf.yaml")]).output
    assert CANARY not in told + "".join(capfd.readouterr())
