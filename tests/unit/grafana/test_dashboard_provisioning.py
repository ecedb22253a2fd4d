"""A Grafana takes the dashboards over HTTP and gives them back as they were.

Only where GRAFANA_URL names one, such as http://admin:admin@127.0.0.1:3000; GRAFANA_TOKEN may hold a token.
That the test itself asks as it should is tried on a double that keeps what it is given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer
from viewer import Content, dashboards, panels
from werkzeug import Request, Response

FOLDER = "shf-test"
# What Grafana adds by itself or numbers anew.
ITS_OWN = {"id", "version", "iteration", "pluginVersion"}


@pytest.fixture
def grafana() -> Iterator[httpx.Client]:
    """A client of the Grafana of the environment."""
    url = os.environ.get("GRAFANA_URL")
    if not url:
        pytest.skip("GRAFANA_URL names no Grafana")
    token = os.environ.get("GRAFANA_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


def kept(client: httpx.Client, content: Content) -> Content:
    """Put a dashboard into a folder of this test and read it back."""
    answer = client.post("/api/folders", json={"uid": FOLDER, "title": "Self-Healing Fabric (test)"})
    assert answer.status_code in (200, 409, 412), answer.text  # 409 and 412: it is there already
    # Under another address, so that those that people use there are left alone.
    mine = {**content, "id": None, "uid": f"{content['uid']}-test", "title": f"{content['title']} (test)"}
    body = {"dashboard": mine, "folderUid": FOLDER, "overwrite": True}
    client.post("/api/dashboards/db", json=body).raise_for_status()
    try:
        found = client.get(f"/api/dashboards/uid/{mine['uid']}").raise_for_status().json()["dashboard"]
    finally:
        client.delete(f"/api/dashboards/uid/{mine['uid']}").raise_for_status()
    assert (found["uid"], found["title"]) == (mine["uid"], mine["title"])
    return dict(found)


def differences(content: Content, found: Content) -> list[str]:
    """What Grafana did not keep."""
    wrong = [
        key
        for key in ("schemaVersion", "tags", "editable", "links", "annotations", "templating")
        if not _contains(found.get(key), content[key])
    ]
    there = list(panels(found))
    for panel, other in zip(panels(content), there, strict=False):
        wrong += [f"{panel['title']}: {key}" for key, value in panel.items()
                  if key not in ITS_OWN and not _contains(other.get(key), value)]  # fmt: skip
    return [*wrong, *(["number of panels"] if len(there) != len(list(panels(content))) else [])]


def _contains(found: Any, expected: Any) -> bool:
    """Whether everything expected is there; Grafana may have added defaults."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(_contains(found.get(key), expected[key]) for key in expected)
    if isinstance(expected, list) and isinstance(found, list) and len(found) >= len(expected):
        return all(any(_contains(each, one) for each in found) for one in expected)
    return bool(found == expected)


@pytest.mark.parametrize("name", dashboards())
def test_grafana_keeps_a_dashboard(grafana: httpx.Client, name: str) -> None:
    """Provisioned over HTTP and read back."""
    content = dashboards()[name]
    assert differences(content, kept(grafana, content)) == []


@pytest.fixture
def double(httpserver: HTTPServer) -> tuple[httpx.Client, dict[str, Content]]:
    """Keeps what it is given and gives it back, with an id of its own."""
    store: dict[str, Content] = {}

    def post(request: Request) -> Response:
        given = request.get_json()["dashboard"]
        store[given["uid"]] = {**given, "id": 7, "version": 1}
        return _json({"uid": given["uid"], "status": "success"})

    def by_uid(request: Request) -> Response:
        uid = request.path.rpartition("/")[2]
        return _json({"dashboard": store.pop(uid) if request.method == "DELETE" else store[uid]})

    httpserver.expect_request("/api/folders", method="POST").respond_with_json({}, status=412)
    httpserver.expect_request("/api/dashboards/db", method="POST").respond_with_handler(post)
    for uid in (content["uid"] for content in dashboards().values()):
        httpserver.expect_request(f"/api/dashboards/uid/{uid}-test").respond_with_handler(by_uid)
    return httpx.Client(base_url=httpserver.url_for("/"), trust_env=False), store


def _json(body: Any) -> Response:
    return Response(json.dumps(body), mimetype="application/json")


@pytest.mark.parametrize("name", dashboards())
def test_what_is_read_back_is_compared_and_removed(
    double: tuple[httpx.Client, dict[str, Content]], name: str
) -> None:
    """On the double."""
    client, store = double
    content = dashboards()[name]
    with client:
        found = kept(client, content)
    assert store == {}
    assert differences(content, found) == []
    found["panels"][0]["targets"][0]["expr"] = "up"
    found["panels"].pop()
    assert len(differences(content, found)) == 2
