"""The proxies between the sample services really delay, lose and cut."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from pytest_httpserver import HTTPServer

from shf_demo.network import RETRANSMISSION, Edge, Network
from shf_demo.ports import free_ports


@pytest.fixture
def edge(httpserver: HTTPServer) -> Iterator[Edge]:
    httpserver.expect_request("/").respond_with_data("here")
    with Network() as network:
        yield network.connect("web", "cart", httpserver.port)


def ask(http: httpx.Client, edge: Edge) -> float:
    """Seconds until the answer."""
    begin = time.perf_counter()
    assert http.get(f"http://127.0.0.1:{edge.port}/").text == "here"
    return time.perf_counter() - begin


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    # A message that is lost as often as it can be takes 3 s, and a request and its answer are a few of them.
    with httpx.Client(trust_env=False, timeout=60.0) as client:
        yield client


def test_a_delay_is_paid_in_both_directions_and_ends(edge: Edge, http: httpx.Client) -> None:
    """A request and its answer take a delay each; once mended they do not."""
    ask(http, edge)
    edge.delay = 0.15
    assert ask(http, edge) >= 0.3
    edge.mend()
    assert ask(http, edge) < 0.15


def test_lost_messages_arrive_later(edge: Edge, http: httpx.Client) -> None:
    """What is lost is sent again after the time that TCP waits: some requests are late, none fails."""
    edge.loss = 0.5
    taken = [ask(http, edge) for _ in range(8)]
    assert max(taken) >= RETRANSMISSION


def test_a_cut_resets_open_and_new_connections(edge: Edge, http: httpx.Client) -> None:
    """While it is cut every request fails; afterwards the callee answers again."""
    ask(http, edge)
    edge.cut = True
    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            ask(http, edge)
    edge.mend()
    ask(http, edge)


def test_a_callee_that_is_down_is_a_reset(http: httpx.Client) -> None:
    """The caller is not left waiting for a callee that nobody listens for."""
    with Network() as network:
        edge = network.connect("web", "cart", *free_ports(1))
        with pytest.raises(httpx.TransportError):
            ask(http, edge)


def test_only_the_ways_to_a_service_lead_into_it(httpserver: HTTPServer) -> None:
    """A fault of the network in front of a service leaves its own calls alone."""
    with Network() as network:
        into = network.connect("web", "cart", httpserver.port)
        network.connect("cart", "stock", httpserver.port)
        assert network.into("cart") == [into]
