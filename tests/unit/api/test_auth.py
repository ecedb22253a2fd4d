"""Who may call: with credentials configured nobody without them, and everybody only what their rights are."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from self_healing_fabric.api.pages import forms
from self_healing_fabric.settings import Right

Make = Callable[..., Any]
CALLS = [
    ("POST", "/api/v1/alerts"),
    ("GET", "/api/v1/incidents"),
    ("GET", "/api/v1/incidents/x"),
    ("POST", "/api/v1/incidents/x/close"),
    ("GET", "/api/v1/mode"),
    ("PUT", "/api/v1/mode"),
    ("GET", "/api/v1/status"),
    ("GET", "/nothing"),
    ("POST", "/healthz/../api/v1/alerts"),
    ("GET", "//metrics"),
]


def bearer(token: str) -> dict[str, str]:
    """The header that presents a token."""
    return {"Authorization": f"Bearer {token}"}


def basic(username: str, password: str) -> dict[str, str]:
    """The header that presents a user name and a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with the token `s3cret`."""
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    return path


@pytest.fixture
def guarded(make_api: Make, token: Path) -> Any:
    """A fabric that wants the token."""
    return make_api(auth={"token_file": token})


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file for each of three callers, with the secret `NAME-secret`."""
    found = {name: tmp_path / name for name in ("alertmanager", "wall", "ops")}
    for name, path in found.items():
        path.write_text(f"{name}-secret\n")
    return found


@pytest.fixture
def crew(make_api: Make, files: dict[str, Path]) -> Any:
    """A fabric with a caller for each right: Alertmanager sends, a wall display reads, people control."""
    callers = {
        "alertmanager": {"rights": ["send"], "username": "am", "password_file": files["alertmanager"]},
        "wall": {"rights": ["read"], "token_file": files["wall"]},
        "ops": {"rights": ["control"], "token_file": files["ops"]},
    }
    return make_api(auth={"callers": callers})


AS_SENDER = basic("am", "alertmanager-secret")
AS_READER = bearer("wall-secret")
AS_CONTROLLER = bearer("ops-secret")


@pytest.mark.parametrize(
    ("headers", "unknown"),
    [
        ({}, 0),
        (bearer("s3cret"), 0),
        (bearer("other"), 1),
        (basic("am", "s3cret"), 1),
        ({"Authorization": ""}, 1),
    ],
)
def test_secrets_that_nobody_has_are_counted_and_logged(
    guarded: Any, headers: dict[str, str], unknown: int
) -> None:
    """Who guesses, or comes with an old token, is seen from outside; what was presented is told nowhere."""
    with capture_logs() as logs:
        guarded.client.get("/api/v1/status", headers=headers)
    assert guarded.metric("shf_unknown_secrets_total") == unknown
    assert [line["event"] for line in logs] == ["unknown_secret"] * unknown
    assert "other" not in str(logs)


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_a_token_it_is_a_401(guarded: Any, method: str, path: str) -> None:
    """Every path but the open ones, existing or not, with the scheme to use."""
    response = guarded.client.open(path, method=method, json={})
    assert response.status_code == 401
    assert response.content_type == "application/problem+json"
    assert response.headers.getlist("WWW-Authenticate") == ['Bearer realm="self-healing-fabric"']
    assert guarded.alerts() == []


@pytest.mark.parametrize("header", ["", "s3cret", "Basic s3cret", "Bearer", "Bearer ", "Basic czNjcmV0"])
def test_a_header_without_a_bearer_token_is_a_401(guarded: Any, header: str) -> None:
    """Another scheme or an empty token is no token."""
    assert guarded.client.get("/api/v1/mode", headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize(
    "given", ["wrong", "s3cre", "s3crets", "S3CRET", "s3cret x", "sécret", "\x80", "s3cret" * 1000]
)
def test_a_wrong_token_is_a_401(guarded: Any, given: str) -> None:
    """Nearly right is wrong."""
    response = guarded.client.get("/api/v1/mode", headers=bearer(given))
    assert response.status_code == 401
    assert "s3cret" not in response.text


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret"])
def test_the_right_token_passes(guarded: Any, header: str) -> None:
    """The name of the scheme is not case-sensitive."""
    assert guarded.client.get("/api/v1/mode", headers={"Authorization": header}).status_code == 200


def test_a_rotated_token_holds_at_once(guarded: Any, token: Path) -> None:
    """The old one is refused without a restart."""
    token.write_text("next")
    old, new = (
        guarded.client.get("/api/v1/mode", headers=bearer(value)).status_code for value in ("s3cret", "next")
    )
    assert (old, new) == (401, 200)


@pytest.mark.parametrize("header", ["Bearer s3cret", "Bearer ", "Bearer x", "Bearer \xa0", "Basic Og=="])
def test_an_emptied_token_file_lets_nobody_in(guarded: Any, token: Path, header: str) -> None:
    """An empty token is no key."""
    token.write_text(" \n")
    response = guarded.client.get("/api/v1/mode", environ_overrides={"HTTP_AUTHORIZATION": header})
    assert response.status_code == 401


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_token_file_that_cannot_be_read_is_a_503(guarded: Any, token: Path, content: bytes | None) -> None:
    """Nobody gets in, and Alertmanager sends it again."""
    token.unlink()
    if content:
        token.write_bytes(content)
    response = guarded.client.post("/api/v1/alerts", headers=bearer("s3cret"), json={})
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert guarded.client.get("/api/v1/mode").status_code == 401, "without a token there is no doubt"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_and_scrapes_need_no_token(guarded: Any, path: str) -> None:
    """They tell no secrets and change nothing."""
    assert guarded.client.get(path).status_code in (200, 503)


def test_on_loopback_without_a_token_everyone_may_call(api: Any) -> None:
    """The default: only this machine can reach it."""
    assert api.client.get("/api/v1/mode").status_code == 200


# What every route needs; a new route belongs here, with the right that its effect asks for.
RIGHTS = {
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): None,
    ("GET", "/approvals/<token>"): None,  # the link is the credential
    ("POST", "/approvals/<token>"): None,
    ("POST", "/api/v1/alerts"): Right.SEND,
    ("POST", "/api/v1/heartbeats/<service>"): Right.SEND,
    ("GET", "/api/v1/incidents"): Right.READ,
    ("GET", "/api/v1/incidents/<incident_id>"): Right.READ,
    ("GET", "/api/v1/targets"): Right.READ,
    ("GET", "/api/v1/strategies"): Right.READ,
    ("GET", "/api/v1/mode"): Right.READ,
    ("GET", "/api/v1/status"): Right.READ,
    ("GET", "/api/v1/openapi.json"): Right.READ,
    ("PUT", "/api/v1/mode"): Right.CONTROL,
    ("POST", "/api/v1/incidents/<incident_id>/split"): Right.CONTROL,
    ("POST", "/api/v1/incidents/<incident_id>/verdict"): Right.CONTROL,
    (
        "POST",
        "/api/v1/incidents/<incident_id>/<any(acknowledge,approve,reject,escalate,close):decision>",
    ): Right.CONTROL,
    ("GET", "/static/<filename>"): None,
    ("GET", "/login"): None,
    ("POST", "/logout"): None,
    ("GET", "/"): Right.READ,
    ("GET", "/live"): Right.READ,
    ("GET", "/messages/<path:message>"): Right.READ,
    ("GET", "/incidents/<incident_id>"): Right.READ,
    ("GET", "/incidents/<incident_id>/live"): Right.READ,
    ("GET", "/incidents/<incident_id>/signals"): Right.READ,
    ("GET", "/incidents/<incident_id>/signals.svg"): Right.READ,
    ("POST", "/mode"): Right.CONTROL,
    ("POST", "/incidents/<incident_id>/split"): Right.CONTROL,
    ("POST", "/incidents/<incident_id>/verdict"): Right.CONTROL,
    (
        "POST",
        "/incidents/<incident_id>/<any(acknowledge,approve,reject,escalate,close):decision>",
    ): Right.CONTROL,
}
JUDGES_ITSELF = ("POST", "/login")  # open, and answers by the secret in its form
FORM = "f" * 43  # what our own forms carry


def test_every_route_asks_for_the_right_that_is_listed_here(crew: Any) -> None:
    """Called by each caller: 403 exactly where its rights do not reach, and nobody unknown gets anywhere."""
    callers = {
        frozenset({Right.SEND}): AS_SENDER,
        frozenset({Right.READ}): AS_READER,
        frozenset({Right.READ, Right.CONTROL}): AS_CONTROLLER,
    }
    found = {
        (method, rule.rule)
        for rule in crew.app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }
    crew.client.set_cookie(forms.COOKIE, FORM)
    assert found == {*RIGHTS, JUDGES_ITSELF}, "a route is missing in, or only in, the list above"
    for (method, rule), right in RIGHTS.items():
        path = rule.replace("<incident_id>", "x").replace("<service>", "cart")
        path = f"{path.partition('<any')[0]}approve" if "<any" in path else path
        path = path.replace("<filename>", "pages.css")
        form = {} if path.startswith("/api/") or method == "GET" else {"data": {forms.FIELD: FORM}}
        unknown = crew.client.open(path, method=method, **form).status_code
        assert (unknown == 401) is (right is not None), path
        for rights, headers in callers.items():
            status = crew.client.open(path, method=method, headers=headers, **form).status_code
            assert (status == 403) is (right is not None and right not in rights), (method, path, rights)
            assert status != 401


def test_a_route_that_declares_no_right_is_refused_to_everybody(make_api: Make) -> None:
    """Forgetting it closes the route, also where nobody needs credentials."""
    api = make_api()
    api.app.add_url_rule("/forgotten", view_func=lambda: "secret")
    response = api.client.get("/forgotten")
    assert (response.status_code, "secret" in response.text) == (403, False)


def test_a_browser_is_asked_for_a_password_where_one_is_configured(crew: Any) -> None:
    """Both schemes are offered; a wrong password is asked for again."""
    for headers in ({}, basic("am", "wrong")):
        offered = crew.client.get("/api/v1/mode", headers=headers).headers.getlist("WWW-Authenticate")
        assert offered == ['Bearer realm="self-healing-fabric"', 'Basic realm="self-healing-fabric"']


@pytest.mark.parametrize(
    "headers",
    [
        basic("am", "wall-secret"),
        basic("wall", "wall-secret"),
        basic("AM", "alertmanager-secret"),
        basic("", "alertmanager-secret"),
        basic("am", ""),
        bearer("alertmanager-secret"),
        bearer("am:alertmanager-secret"),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic YW0"},
        {"Authorization": "Digest am"},
    ],
)
def test_a_secret_counts_only_for_its_own_caller_and_scheme(crew: Any, headers: dict[str, str]) -> None:
    """A password is no token, and another's password is none."""
    assert crew.client.get("/api/v1/mode", headers=headers).status_code == 401


def test_a_file_that_cannot_be_read_locks_out_only_its_own_caller(crew: Any, files: dict[str, Path]) -> None:
    """Whoever is known without it gets in; of an unknown token nobody can say that it is wrong."""
    files["wall"].unlink()
    answers = [
        crew.client.get("/api/v1/mode", headers=headers).status_code
        for headers in (AS_CONTROLLER, AS_READER, bearer("unknown"), basic("am", "wrong"), {})
    ]
    assert answers == [200, 503, 503, 401, 401]


def test_control_implies_reading_and_nothing_implies_sending(crew: Any) -> None:
    """Who decides must see on what; who decides need not be able to raise alarms."""
    assert crew.client.get("/api/v1/incidents", headers=AS_CONTROLLER).status_code == 200
    assert crew.client.post("/api/v1/alerts", headers=AS_CONTROLLER, json={}).status_code == 403
    assert crew.client.post("/api/v1/alerts", headers=AS_SENDER, json={}).status_code == 422


@pytest.mark.parametrize(
    ("body", "who"),
    [({}, "ops"), ({"by": "alice"}, "alice (as ops)"), ({"by": "ops"}, "ops")],
    ids=["no name", "a name", "the same name"],
)
def test_the_timeline_tells_as_whom_a_decision_was_let_in(crew: Any, body: Any, who: str) -> None:
    """A name in the body is a claim; the caller is what was checked. Both are shown."""
    incident = crew.open()
    answer = crew.client.post(f"/api/v1/incidents/{incident}/acknowledge", json=body, headers=AS_CONTROLLER)
    assert answer.get_json()["acknowledged_by"] == who
    assert any(entry["message"].startswith(f"{who} ack") for entry in answer.get_json()["timeline"])


def test_the_change_of_the_mode_tells_who_it_was(crew: Any) -> None:
    """The caller's name is kept with the mode."""
    body = {"mode": "paused", "by": "alice"}
    assert crew.client.put("/api/v1/mode", json=body, headers=AS_CONTROLLER).status_code == 200
    query = "SELECT changed_by FROM controls WHERE name = 'mode'"
    assert crew.store.read(lambda c: c.exec_driver_sql(query).scalar_one()) == "alice (as ops)"


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "https://shf.example.com"}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
    ],
)
def test_what_another_site_sends_changes_nothing(
    make_api: Make, headers: dict[str, str], passes: bool
) -> None:
    """A browser says so in a header that no page can forge; reading is not refused, no page can see it."""
    api = make_api(external_url="https://shf.example.com")
    answer = api.client.put("/api/v1/mode", json={"mode": "paused"}, headers=headers)
    assert answer.status_code == (200 if passes else 403)
    assert api.client.get("/api/v1/mode").get_json() == {"mode": "paused" if passes else "automatic"}


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1:9931", True),
        ("localhost", True),
        ("[::1]:9931", True),
        ("shf.example.com", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_without_credentials_a_name_that_was_pointed_here_is_refused(
    make_api: Make, host: str, passes: bool
) -> None:
    """A page whose name is made to mean 127.0.0.1 is of the same origin; its name gives it away."""
    api = make_api(external_url="https://shf.example.com")
    answer = api.client.get("/api/v1/mode", headers={"Host": host})
    assert answer.status_code == (200 if passes else 403)


def test_with_credentials_the_name_does_not_matter(guarded: Any) -> None:
    """No page has the token."""
    headers = bearer("s3cret") | {"Host": "anything.example"}
    assert guarded.client.get("/api/v1/mode", headers=headers).status_code == 200
