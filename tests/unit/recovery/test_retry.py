"""Retry: at most so many probes, with growing random waits, and nothing is disturbed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer

from deadline import within_deadline
from self_healing_fabric.recovery.effects import NotApplicable
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.recovery.strategies.retry import Retry, full_jitter
from self_healing_fabric.settings import RetrySettings, Settings

CLOSED = "http://127.0.0.1:9/health"


def perform(health: str, attempt: int, permit: bool = True, **settings: Any) -> Outcome:
    """One probe of the health endpoint."""
    whole = Settings(services={"cart": {"health": health}}, retry=settings)  # type: ignore[arg-type,dict-item]
    effect = Retry(whole).on("cart")
    return effect.perform(key="k", attempt=attempt, before={}, permit=lambda: permit)


@given(st.integers(1, 10), st.floats(0.01, 10), st.floats(0.01, 100))
def test_the_wait_is_between_zero_and_the_capped_exponential(attempt: int, base: float, cap: float) -> None:
    """Full jitter: uniform from 0 to min(cap, base * 2 ** (attempt - 1))."""
    wait = full_jitter(attempt, RetrySettings(base=base, cap=cap))
    assert 0.0 <= wait <= min(cap, base * 2 ** (attempt - 1))


def test_waits_are_spread_over_the_whole_range() -> None:
    """Many fabrics do not knock at the same moment: both halves of the range occur."""
    waits = [full_jitter(3, RetrySettings(base=1.0, cap=100.0)) for _ in range(500)]
    assert min(waits) < 1.0
    assert 3.0 < max(waits) <= 4.0


@pytest.mark.parametrize("status", [200, 204])
def test_a_probe_that_is_answered_succeeds(httpserver: HTTPServer, status: int) -> None:
    """One GET; no further attempt is asked for."""
    httpserver.expect_request("/health", method="GET").respond_with_data("", status=status)
    outcome = perform(httpserver.url_for("/health"), 2)
    assert (outcome.status, outcome.retry_in) == (Status.SUCCEEDED, None)
    assert len(httpserver.log) == 1


def test_without_a_permit_nothing_is_sent(httpserver: HTTPServer) -> None:
    """Somebody else may have the incident: it is left to them, at once."""
    outcome = perform(httpserver.url_for("/health"), 1, permit=False)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert "nothing was done" in outcome.detail
    assert httpserver.log == []


@pytest.mark.parametrize("status", [500, 503, 404, 302])
def test_a_probe_that_is_answered_badly_fails(httpserver: HTTPServer, status: int) -> None:
    """A redirect to a login page is not healthy either."""
    httpserver.expect_request("/health").respond_with_data("", status=status, headers={"Location": "/login"})
    outcome = perform(httpserver.url_for("/health"), 1)
    assert outcome.status is Status.FAILED
    assert outcome.retry_in is not None
    assert len(httpserver.log) == 1


def test_a_probe_whose_answer_never_ends_fails(server_that_drips: str) -> None:
    """Each byte comes in time and the whole never does: a worker that waited for it would be lost."""
    outcome = within_deadline(lambda: perform(server_that_drips, 1, timeout=0.5))
    assert outcome.status is Status.FAILED
    assert "its answer takes longer than 0.5 s" in outcome.detail


@pytest.mark.parametrize(("attempt", "more"), [(1, True), (2, True), (3, False), (4, False)])
def test_after_the_last_attempt_there_is_no_other(attempt: int, more: bool) -> None:
    """Three attempts are two waits."""
    outcome = perform(CLOSED, attempt, attempts=3)
    assert outcome.status is Status.FAILED
    assert (outcome.retry_in is not None) is more
    assert f"attempt {attempt} of 3" in outcome.detail


def test_it_needs_a_health_endpoint_and_disturbs_nothing() -> None:
    """Guardrails for disruptive actions do not apply to a probe."""
    retry = Retry(Settings(services={"cart": {}}))  # type: ignore[dict-item]
    assert retry.disruptive is False
    with pytest.raises(NotApplicable, match="cart has no `health` endpoint"):
        retry.on("cart")


def test_an_interrupted_probe_may_be_repeated_at_once() -> None:
    """It changed nothing, so there is nothing to learn from the target."""
    effect = Retry(Settings(services={"cart": {"health": CLOSED}})).on("cart")  # type: ignore[dict-item]
    outcome = effect.observe(effect.snapshot())
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert effect.longest_effect == 0.0


def configured(httpserver: HTTPServer, **call: Any) -> Any:
    """The effect of a service whose `recovery.retry` is given; its health endpoint is not asked."""
    recovery = {"retry": {"url": httpserver.url_for("/again"), **call}}
    services = {"cart": {"health": httpserver.url_for("/health"), "recovery": recovery}}
    return Retry(Settings(services=services)).on("cart")  # type: ignore[arg-type]


def test_a_configured_call_is_made_instead_of_the_probe(httpserver: HTTPServer) -> None:
    """With its method, the key of the action, and its own idea of success."""
    httpserver.expect_request("/again", method="PUT").respond_with_data("", status=304)
    effect = configured(httpserver, method="PUT", expect=[304])
    outcome = effect.perform(key="i1/retry-1", attempt=1, before={}, permit=lambda: True)
    assert outcome.status is Status.SUCCEEDED
    ((request, _),) = httpserver.log
    assert (request.path, request.headers["Idempotency-Key"]) == ("/again", "i1/retry-1")


def test_a_2xx_that_is_not_expected_is_a_failure(httpserver: HTTPServer) -> None:
    """A 202 says that it was taken, not that it worked, if one says so."""
    httpserver.expect_request("/again").respond_with_data("", status=202)
    outcome = configured(httpserver, expect=[200]).perform(key="k", attempt=3, before={}, permit=lambda: True)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, None)


def test_a_token_that_cannot_be_read_is_told_and_nothing_is_sent(httpserver: HTTPServer) -> None:
    """No call without its token."""
    effect = configured(httpserver, bearer_token_file="/nowhere/token")
    outcome = effect.perform(key="k", attempt=1, before={}, permit=lambda: True)
    assert "/nowhere/token cannot be read" in outcome.detail
    assert httpserver.log == []
