"""The client: one try, a timeout, and whatever goes wrong is one of three errors with a readable text."""

import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from pytest_httpserver import HTTPServer
from responses import matchers
from urllib3 import PoolManager
from werkzeug import Request, Response

from deadline import within_deadline
from dripping_server import IN_BODY, IN_HEADERS, dripping_server
from self_healing_fabric.settings import PrometheusSettings, bearer_headers
from shf_queries import PartialResult, PrometheusClient, PrometheusUnavailable, QueryError, QueryRejected
from shf_queries.answers import whole_answers

URL = "http://prometheus.test:9090"
SEVERAL_LINES = "holds more than one line, or control characters: write only the secret"
QUERY = f"{URL}/api/v1/query"
VECTOR = {"resultType": "vector", "result": [{"metric": {"service": "cart"}, "value": [1, "2"]}]}


@pytest.fixture
def client() -> Iterator[PrometheusClient]:
    """A client of a Prometheus that exists only in `responses`."""
    client = PrometheusClient(URL)
    yield client
    client.close()


@pytest.fixture
def faults() -> Iterator[responses.RequestsMock]:
    """Answers that a real Prometheus does not give on demand."""
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def real(httpserver: HTTPServer) -> Iterator[PrometheusClient]:
    """A client of a real HTTP server."""
    client = PrometheusClient(httpserver.url_for(""), timeout=5)
    yield client
    client.close()


def success(data: Any, **more: Any) -> dict[str, Any]:
    """The envelope of Prometheus's answers."""
    return {"status": "success", "data": data, **more}


def test_an_instant_query_asks_at_the_given_time(real: PrometheusClient, httpserver: HTTPServer) -> None:
    """The query and the time with milliseconds are sent as written; the vector comes back."""
    httpserver.expect_ordered_request(
        "/api/v1/query", query_string={"query": 'up{a="b\\nc"}', "time": "1700000000.500"}
    ).respond_with_json(success(VECTOR))
    (sample,) = real.instant('up{a="b\\nc"}', at=1700000000.5)
    assert (sample.labels["service"], sample.value) == ("cart", 2.0)


def test_expressions_are_asked_together(real: PrometheusClient, httpserver: HTTPServer) -> None:
    """One request brings the vector of each expression, in their order and with its own labels."""
    marked = 'label_replace({}, "shf_expression", "{}", "", "")'
    query = " or ".join(marked.format(each, number) for number, each in enumerate(["up", "gone", "max(up)"]))
    found = [
        {"metric": {"shf_expression": "2"}, "value": [1700000000.5, "3"]},
        {"metric": {"shf_expression": "0", "job": "a"}, "value": [1700000000.5, "2"]},
        {"metric": {"shf_expression": "0", "job": "b"}, "value": [1700000000.5, "3"]},
    ]
    httpserver.expect_ordered_request(
        "/api/v1/query", query_string={"query": query, "time": "1700000000.500"}
    ).respond_with_json(success({"resultType": "vector", "result": found}))
    first, gone, highest = real.together(["up", "gone", "max(up)"], at=1700000000.5)
    assert [(each.labels, each.value) for each in first] == [({"job": "a"}, 2.0), ({"job": "b"}, 3.0)]
    assert gone == ()
    assert [(each.labels, each.value) for each in highest] == [({}, 3.0)]


@pytest.mark.parametrize("labels", [{}, {"shf_expression": "x"}, {"shf_expression": "7"}])
def test_an_answer_to_nothing_that_was_asked_together_is_none(
    real: PrometheusClient, httpserver: HTTPServer, labels: dict[str, str]
) -> None:
    """A server that drops or changes labels does not answer as Prometheus does."""
    found = {"resultType": "vector", "result": [{"metric": labels, "value": [1.0, "1"]}]}
    httpserver.expect_request("/api/v1/query").respond_with_json(success(found))
    with pytest.raises(PrometheusUnavailable):
        real.together(["up", "down"])


def test_raw_samples_are_asked_for_as_a_range_selector(
    real: PrometheusClient, httpserver: HTTPServer
) -> None:
    """Stored samples come from an instant query of `selector[range]`, which knows no look-back."""
    series = {"metric": {"service": "cart"}, "values": [[1.5, "0"], [6.5, "NaN"]]}
    httpserver.expect_ordered_request(
        "/api/v1/query", query_string={"query": "up[12500ms]", "time": "100.000"}
    ).respond_with_json(success({"resultType": "matrix", "result": [series]}))
    (found,) = real.raw("up", seconds=12.5, at=100.0)
    assert found.times.tolist() == [1.5, 6.5]
    assert math.isnan(found.values[1])


def test_alerts_are_listed_as_prometheus_lists_them(real: PrometheusClient, httpserver: HTTPServer) -> None:
    """The alerts come from /api/v1/alerts."""
    alert = {"labels": {"alertname": "A"}, "state": "firing"}
    httpserver.expect_ordered_request("/api/v1/alerts").respond_with_json(success({"alerts": [alert]}))
    assert real.alerts() == [alert]


def test_an_answer_with_warnings_is_a_partial_result(
    client: PrometheusClient, faults: responses.RequestsMock
) -> None:
    """Data that Prometheus itself calls incomplete is not returned."""
    faults.get(QUERY, json=success(VECTOR, warnings=["remote read failed", "two"]))
    with pytest.raises(PartialResult, match="warns: remote read failed; two"):
        client.instant("up")


def test_warnings_of_one_answer_do_not_stick_to_the_next(
    client: PrometheusClient, faults: responses.RequestsMock
) -> None:
    """A complete answer after a partial one is returned."""
    faults.get(QUERY, json=success(VECTOR, warnings=["partial"]))
    faults.get(QUERY, json=success(VECTOR))
    with pytest.raises(PartialResult):
        client.instant("up")
    assert len(client.instant("up")) == 1


def test_a_series_that_is_called_warnings_is_no_warning(
    client: PrometheusClient, faults: responses.RequestsMock
) -> None:
    """Only the envelope's own key counts."""
    faults.get(
        QUERY, json=success({"result": [{"metric": {"warnings": "x"}, "value": [1, "1"]}]}, warnings=[])
    )
    assert client.instant("up")[0].labels == {"warnings": "x"}


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_unavailable_after_one_try(
    client: PrometheusClient, faults: responses.RequestsMock, status: int
) -> None:
    """A 5xx is asked once; the orchestrator's timer asks again."""
    faults.get(QUERY, status=status, body="upstream broke")
    with pytest.raises(PrometheusUnavailable, match=f"{URL} failed.*{status}"):
        client.instant("up")
    assert len(faults.calls) == 1


def test_a_redirect_is_not_followed(real: PrometheusClient, httpserver: HTTPServer) -> None:
    """It would carry the question, and the token, to a host that nobody has configured."""
    elsewhere = httpserver.url_for("/elsewhere")
    httpserver.expect_request("/api/v1/query").respond_with_data(status=307, headers={"Location": elsewhere})
    httpserver.expect_request("/elsewhere").respond_with_json(success([]))
    with pytest.raises(PrometheusUnavailable):
        real.instant("up")
    assert [request.path for request, _ in httpserver.log] == ["/api/v1/query"]


def test_a_server_error_is_not_repeated_on_the_wire(real: PrometheusClient, httpserver: HTTPServer) -> None:
    """The adapter under the library repeats nothing either: the server sees one request."""
    httpserver.expect_request("/api/v1/query").respond_with_data("busy", status=503)
    with pytest.raises(PrometheusUnavailable):
        real.instant("up")
    assert len(httpserver.log) == 1


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refusal_is_a_rejected_query(
    client: PrometheusClient, faults: responses.RequestsMock, status: int
) -> None:
    """A 4xx will not get better by waiting; the reason that Prometheus gave is in the text."""
    faults.get(QUERY, status=status, json={"status": "error", "error": "parse error: unexpected end"})
    with pytest.raises(QueryRejected, match="unexpected end"):
        client.instant("up{")


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_has_no_answer(status: int, faults: responses.RequestsMock) -> None:
    """It says nothing of the query, and a secret can be mended; whoever counts failed calls is told."""
    heard: list[str | None] = []
    client = PrometheusClient(URL, on_call=lambda _, error: heard.append(error))
    faults.get(QUERY, status=status, body="Unauthorized")
    with pytest.raises(PrometheusUnavailable, match=f"does not let us in: it answers {status}"):
        client.instant("up")
    assert len(heard) == 1
    assert heard[0] is not None
    client.close()


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (requests.ConnectTimeout("connect timed out"), "timed out"),
        (requests.ReadTimeout("read timed out"), "timed out"),
        (requests.ConnectionError("reset by peer"), "reset by peer"),
        (requests.TooManyRedirects("30 redirects"), "redirects"),
    ],
)
def test_faults_of_the_connection_are_unavailable(
    client: PrometheusClient, faults: responses.RequestsMock, failure: Exception, text: str
) -> None:
    """No error of requests leaves the package, and the text names server and cause."""
    faults.get(QUERY, body=failure)
    with pytest.raises(PrometheusUnavailable, match=f"{URL} does not answer: .*{text}"):
        client.instant("up")


def test_a_refused_connection_says_so_in_one_line() -> None:
    """Nobody listens: the text is `Connection refused`, not two lines of class names."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = PrometheusClient(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(PrometheusUnavailable, match=r"does not answer: .*refused") as caught:
            client.instant("up")
    client.close()
    assert "Max retries" not in str(caught.value)


def test_a_server_that_stays_silent_runs_into_the_timeout(httpserver: HTTPServer) -> None:
    """The configured timeout is passed on: without one this test would never end."""
    release = threading.Event()

    def hang(_: Request) -> Response:
        release.wait(30)
        return Response("late")

    httpserver.expect_request("/api/v1/query").respond_with_handler(hang)
    client = PrometheusClient(httpserver.url_for(""), timeout=0.2)
    try:
        with pytest.raises(PrometheusUnavailable, match="timed out"):
            client.instant("up")
    finally:
        release.set()
        client.close()


@pytest.mark.parametrize("begins", [IN_BODY, IN_HEADERS], ids=["body", "headers"])
def test_an_answer_that_comes_byte_by_byte_runs_into_the_timeout(begins: bytes) -> None:
    """However often something comes: a worker that waits for its end works on nothing else."""
    with dripping_server(begins) as url:
        client = PrometheusClient(url, timeout=0.5)
        try:
            with pytest.raises(PrometheusUnavailable, match=r"takes longer than 0\.5 s"):
                within_deadline(lambda: client.instant("up"))
        finally:
            client.close()


class Keeping(BaseHTTPRequestHandler):
    """Keeps its connections."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


def test_the_next_question_on_a_kept_connection_has_a_time_of_its_own() -> None:
    """What an answer has left of its time is no bound for sending the next question."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Keeping) as server, PoolManager() as connections:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        whole_answers(connections)
        assert connections.request("GET", url, timeout=30.0, retries=False).status == 200
        kept = connections.connection_from_url(url).pool.get()
        assert kept.sock.gettimeout() == 30.0
        kept.close()
        server.shutdown()


@pytest.mark.parametrize("body", ["<html>login</html>", "", '{"status"', '"warnings"', "\xff"])
def test_an_answer_that_is_not_json_is_unavailable(
    client: PrometheusClient, faults: responses.RequestsMock, body: str
) -> None:
    """A login page in front of Prometheus is no evidence."""
    faults.get(QUERY, body=body.encode("latin-1"))
    with pytest.raises(PrometheusUnavailable):
        client.instant("up")


WRONG_SHAPES: list[Any] = [
    {},
    [],
    "text",
    7,
    None,
    {"data": None},
    {"data": {}},
    success({"resultType": "scalar", "result": [1, "2"]}),
    success({"result": 5}),
    success({"result": None}),
    success({"result": [{"metric": {}}]}),
    success({"result": [{"value": [1, "1"], "values": [[1, "1"]]}]}),
    success({"result": [{"metric": {}, "value": [1, "many"], "values": [[1, "many"]]}]}),
    success({"result": [{"metric": {}, "value": [], "values": [[]]}]}),
    success({"result": [{"metric": 5, "value": [1, "1"], "values": [[1, "1"]]}]}),
]


@pytest.mark.parametrize("answer", WRONG_SHAPES)
@pytest.mark.parametrize(
    "ask",
    [lambda client: client.instant("up"), lambda client: client.raw("up", seconds=5)],
    ids=["instant", "raw"],
)
def test_json_of_another_shape_is_unavailable(
    client: PrometheusClient,
    faults: responses.RequestsMock,
    answer: Any,
    ask: Callable[[PrometheusClient], Any],
) -> None:
    """No KeyError or TypeError leaves the package, wherever in the answer the shape is wrong."""
    faults.get(QUERY, body=json.dumps(answer))
    with pytest.raises(PrometheusUnavailable, match="does not answer as Prometheus does"):
        ask(client)


@pytest.mark.parametrize(
    "answer", [{}, success({"alerts": None}), success([]), success({"alerts": ["text"]})]
)
def test_alerts_of_another_shape_are_unavailable(
    client: PrometheusClient, faults: responses.RequestsMock, answer: Any
) -> None:
    """The list of alerts is checked as queries are."""
    faults.get(f"{URL}/api/v1/alerts", json=answer)
    with pytest.raises(PrometheusUnavailable):
        client.alerts()


def test_the_token_is_read_anew_for_every_call(tmp_path: Path, faults: responses.RequestsMock) -> None:
    """A rotated token is used at once."""
    token = tmp_path / "token"
    client = PrometheusClient(URL, headers=lambda: bearer_headers(token))
    for value in ("first\n", "second\n"):
        token.write_text(value)
        header = matchers.header_matcher({"Authorization": f"Bearer {value.strip()}"})
        faults.get(QUERY, json=success(VECTOR), match=[header])
        client.instant("up")
    client.close()


def test_a_token_that_cannot_be_read_is_told_with_its_path(tmp_path: Path) -> None:
    """Prometheus is not asked without its token, and the text names the file."""
    client = PrometheusClient(URL, headers=lambda: bearer_headers(tmp_path / "missing"))
    with pytest.raises(QueryError, match="missing"):
        client.instant("up")
    client.close()


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty: write the secret into it"),
        (b"canary\nof a second line", SEVERAL_LINES),
        (b"can\xe4ry", "cannot be read: not UTF-8"),
    ],
)
def test_what_is_no_secret_is_neither_sent_nor_told(
    tmp_path: Path, scheme: str, content: bytes, what: str
) -> None:
    """Clients and decoders tell all of what they could not send, and the log and the status repeat that."""
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    shown: dict[str, Any] = {"username": "a", "password_file": secret}
    if scheme == "bearer":
        shown = {"bearer_token_file": secret}
    client = PrometheusClient(URL, headers=PrometheusSettings(url=URL, **shown).headers)
    with pytest.raises(QueryError) as error:
        client.instant("up")
    assert str(error.value) == f"Prometheus at {URL} cannot be asked: {secret} {what}"
    client.close()


def test_the_environment_does_not_choose_a_proxy(
    real: PrometheusClient, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY of the host is not where evidence comes from."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    httpserver.expect_request("/api/v1/query").respond_with_json(success(VECTOR))
    assert real.instant("up")


def test_a_path_prefix_is_kept(httpserver: HTTPServer) -> None:
    """A Prometheus behind /prom/ is asked there, with one slash."""
    httpserver.expect_request("/prom/api/v1/query").respond_with_json(success(VECTOR))
    client = PrometheusClient(httpserver.url_for("/prom/"))
    assert client.instant("up")
    client.close()


def test_a_range_query_asks_for_every_step(real: PrometheusClient, httpserver: HTTPServer) -> None:
    """Start, end and step are sent, and the matrix comes back as arrays."""
    series = {"metric": {"service": "cart"}, "values": [[100, "1"], [105, "NaN"], [110, "3"]]}
    httpserver.expect_ordered_request(
        "/api/v1/query_range", query_string={"query": "up", "start": "100", "end": "110", "step": "5.000"}
    ).respond_with_json(success({"resultType": "matrix", "result": [series]}))
    (found,) = real.range("up", start=100.0, end=110.0, step=5.0)
    assert found.times.tolist() == [100, 105, 110]
    assert (found.values[0], math.isnan(found.values[1]), found.values[2]) == (1.0, True, 3.0)


def test_a_partial_range_is_a_partial_result(
    client: PrometheusClient, faults: responses.RequestsMock
) -> None:
    """Half an answer over time proves nothing either, and a server error is one try."""
    faults.get(f"{QUERY}_range", json=success({"result": []}, warnings=["a store is away"]))
    with pytest.raises(PartialResult, match="a store is away"):
        client.range("up", start=0.0, end=10.0, step=5.0)
    faults.get(f"{QUERY}_range", status=503)
    with pytest.raises(PrometheusUnavailable):
        client.range("up", start=0.0, end=10.0, step=5.0)
    assert len(faults.calls) == 2
