"""Verification: only fresh samples inside all limits, without a gap, prove that it healed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from self_healing_fabric.recovery.verification import Health, Look, Verdict, Verifier, watched_signals
from self_healing_fabric.settings import Settings
from shf_queries import PrometheusUnavailable, Sample, Series, catalogue

SINCE = 1000.0  # the end of the action; scrapes and evaluations every 5 s, stability 30 s
DEADLINE = SINCE + 180.0
NAN = float("nan")
UP = "service:shf_up:ratio"
ERRORS = "service:shf_errors:ratio_short"
P95 = "service:shf_latency:p95_seconds_short"
BASELINE = "service:shf_latency:p95_seconds_baseline"
START = "start"


def every_5_s(start: float, end: float, value: float | Sequence[float]) -> tuple[list[float], list[float]]:
    """Samples from `start` to `end`; several values take turns."""
    times = list(np.arange(start, end + 0.1, 5.0))
    values = [value] if isinstance(value, float | int) else list(value)
    return times, [float(values[index % len(values)]) for index in range(len(times))]


Points = tuple[list[float], list[float]]


class Stored:
    """What a Prometheus has stored: series with their samples, by the name of the series."""

    def __init__(self, **series: Points | list[Points]) -> None:
        names = {"up": UP, "errors": ERRORS, "p95": P95, "baseline": BASELINE, "start": START}
        self._series = {
            names[key]: value if isinstance(value, list) else [value] for key, value in series.items()
        }

    def raw(self, selector: str, *, seconds: float, at: float | None = None) -> tuple[Series, ...]:
        assert at is not None
        found = []
        for times, values in self._series.get(selector.split("{")[0], []):
            inside = [index for index, time in enumerate(times) if at - seconds < time <= at]
            if inside:
                picked = np.array(times)[inside], np.array(values)[inside]
                found.append(Series({"namespace": str(len(found))}, *picked))
        return tuple(found)

    def instant(self, promql: str, *, at: float | None = None) -> tuple[Sample, ...]:
        assert at is not None
        name = START if promql == catalogue.start_time_of("cart") else promql.split("{")[0]
        found = []
        for times, values in self._series.get(name, []):
            known = [value for time, value in zip(times, values, strict=True) if at - 300 < time <= at]
            if known:
                found.append(Sample({"namespace": str(len(found))}, at, known[-1]))
        return tuple(found)


def verifier(stored: Any) -> Verifier:
    """A verifier of the default settings."""
    return Verifier(stored, Settings())


def look(
    stored: Any,
    *signals: str,
    now: float,
    deadline: float | None = DEADLINE,
    started_before: float | None = None,
) -> Look:
    """One look at `cart`."""
    return verifier(stored).look(
        "cart", signals, since=SINCE, deadline=deadline, now=now, started_before=started_before
    )


def test_it_is_healed_when_all_signals_were_inside_for_the_whole_window() -> None:
    """Thirty seconds of fresh samples of every signal, and the evidence of each."""
    stored = Stored(up=every_5_s(SINCE, 1060, 1.0), errors=every_5_s(SINCE, 1060, 0.01))
    found = look(stored, "error_ratio", now=1060.0)
    assert found.verdict is Verdict.HEALED
    assert [fact.query for fact in found.evidence] == [
        f'{ERRORS}{{service="cart"}}',
        f'{UP}{{service="cart"}}',
    ]
    assert all(fact.at == 1060.0 for fact in found.evidence)


def test_it_is_not_yet_healed_before_the_window_is_full() -> None:
    """29 s are not 30 s: no verdict, and the statement says how far it is."""
    found = look(Stored(up=every_5_s(SINCE, 1035, 1.0)), now=1035.0)
    assert found.verdict is None
    assert found.statement == "Inside all limits for 20 of 30 s."


def test_samples_from_before_the_action_prove_nothing() -> None:
    """An hour of health that ended with the action is no evidence."""
    stored = Stored(up=every_5_s(0, SINCE, 1.0))
    assert look(stored, now=1010.0).verdict is None
    assert look(stored, now=DEADLINE).verdict is Verdict.NO_EVIDENCE


def test_samples_whose_window_reaches_back_before_the_action_do_not_count() -> None:
    """A rate over 20 s still holds the errors, or the calm, of before; it counts 25 s after the action."""
    up = every_5_s(SINCE, 1200, 1.0)
    calm_at_once = Stored(up=up, errors=every_5_s(SINCE - 100, 1200, 0.0))
    assert look(calm_at_once, "error_ratio", now=SINCE + 55).verdict is None
    assert look(calm_at_once, "error_ratio", now=SINCE + 60).verdict is Verdict.HEALED
    bad_at_first = every_5_s(SINCE, SINCE + 20, 0.9)
    good_later = every_5_s(SINCE + 25, 1200, 0.0)
    echo = Stored(up=up, errors=(bad_at_first[0] + good_later[0], bad_at_first[1] + good_later[1]))
    assert look(echo, "error_ratio", now=SINCE + 60).verdict is Verdict.HEALED


def test_the_heartbeat_is_always_watched() -> None:
    """Errors that stopped because nothing answers any more are not healed."""
    stored = Stored(up=every_5_s(SINCE, 1180, 0.0), errors=every_5_s(SINCE, 1180, 0.0))
    assert look(stored, "error_ratio", now=DEADLINE).verdict is Verdict.NOT_HEALED


def test_what_is_still_outside_at_the_deadline_is_not_healed() -> None:
    """The signal that is outside is named; before the deadline there is no verdict."""
    stored = Stored(up=every_5_s(SINCE, 1180, 1.0), errors=every_5_s(SINCE, 1180, 0.2))
    assert look(stored, "error_ratio", now=DEADLINE - 1).verdict is None
    found = look(stored, "error_ratio", now=DEADLINE)
    assert found.verdict is Verdict.NOT_HEALED
    assert "error_ratio" in found.statement
    assert "heartbeat" not in found.statement


def test_what_was_good_and_is_bad_again_has_relapsed() -> None:
    """Inside for 20 s, outside at the deadline."""
    good, bad = every_5_s(SINCE, 1040, 1.0), every_5_s(1045, 1180, 0.0)
    found = look(Stored(up=(good[0] + bad[0], good[1] + bad[1])), now=DEADLINE)
    assert found.verdict is Verdict.RELAPSED


def test_in_turns_inside_and_outside_has_relapsed() -> None:
    """A flapping service never fills the window, whichever side the deadline hits: the next bad sample after
    it says so."""
    flapping = Stored(up=every_5_s(SINCE, 1200, [0.0, 1.0, 1.0]))
    for deadline in (1170.0, 1175.0, 1180.0):
        verdicts = [look(flapping, now=deadline + late, deadline=deadline).verdict for late in (0, 5, 10)]
        assert {Verdict.RELAPSED} <= set(verdicts) <= {Verdict.RELAPSED, None}
        assert look(flapping, now=deadline, deadline=None).verdict is None


def test_what_recovers_right_before_the_deadline_may_fill_its_window() -> None:
    """It was called a relapse, in turns inside and outside, although it only came late."""
    bad, good = every_5_s(SINCE, DEADLINE - 20, 0.0), every_5_s(DEADLINE - 15, DEADLINE + 30, 1.0)
    stored = Stored(up=(bad[0] + good[0], bad[1] + good[1]))
    found = [look(stored, now=DEADLINE + late) for late in (0, 5, 10, 15)]
    assert [each.verdict for each in found] == [None, None, None, Verdict.HEALED]


def test_samples_with_gaps_do_not_put_the_verdict_off_for_ever() -> None:
    """Inside at each look, and never long enough without a gap: there is no evidence."""
    times = list(np.arange(SINCE, DEADLINE + 120, 20.0))
    stored = Stored(up=(times, [1.0] * len(times)))
    assert look(stored, now=DEADLINE).verdict is None
    assert look(stored, now=DEADLINE + 60).verdict is Verdict.NO_EVIDENCE


def test_a_vanished_series_is_no_evidence() -> None:
    """The target died with its series: resolved, but not healed."""
    assert look(Stored(), now=DEADLINE).verdict is Verdict.NO_EVIDENCE
    stored = Stored(up=every_5_s(SINCE, 1060, 1.0), errors=every_5_s(SINCE, 1040, 0.0))
    found = look(stored, "error_ratio", now=1060.0, deadline=1060.0)
    assert found.verdict is Verdict.NO_EVIDENCE
    assert "error_ratio" in found.statement


def test_samples_that_stopped_do_not_heal_later() -> None:
    """Good for 40 s, then silence: the window must reach up to now."""
    stored = Stored(up=every_5_s(SINCE, 1050, 1.0))
    assert look(stored, now=1065.0).verdict is Verdict.HEALED
    assert look(stored, now=1066.0).verdict is None
    assert look(stored, now=DEADLINE).verdict is Verdict.NO_EVIDENCE


def test_a_gap_starts_the_window_anew() -> None:
    """What happened in the gap is not known."""
    before, after = every_5_s(SINCE, 1030, 1.0), every_5_s(1050, 1090, 1.0)
    stored = Stored(up=(before[0] + after[0], before[1] + after[1]))
    assert look(stored, now=1075.0).verdict is None
    assert look(stored, now=1080.0).verdict is Verdict.HEALED


def test_missing_evaluations_up_to_three_are_no_gap() -> None:
    """A lost scrape on a loaded machine does not undo the proof."""
    times = [1010.0, 1025.0, 1040.0, 1055.0]
    assert look(Stored(up=(times, [1.0] * 4)), now=1055.0).verdict is Verdict.HEALED


@pytest.mark.parametrize("position", [0, 3, 6])
def test_nan_interrupts_like_a_bad_sample(position: int) -> None:
    """NaN is not inside a limit, at the beginning, in the middle or at the end of the window."""
    times, values = every_5_s(1015, 1045, 1.0)
    values[position] = NAN
    assert look(Stored(up=(times, values)), now=1045.0).verdict is None


def test_nothing_but_nan_is_no_evidence() -> None:
    """It is neither healed nor known to fail."""
    stored = Stored(up=every_5_s(SINCE, 1180, 1.0), errors=every_5_s(SINCE, 1180, NAN))
    assert look(stored, "error_ratio", now=DEADLINE).verdict is Verdict.NO_EVIDENCE


@pytest.mark.parametrize("order", [1, -1])
def test_the_worst_of_several_series_counts(order: int) -> None:
    """Healed in one namespace and failing in the other is not healed."""
    series = [every_5_s(SINCE, 1180, 1.0), every_5_s(SINCE, 1180, 0.0)][::order]
    assert look(Stored(up=series), now=DEADLINE).verdict is Verdict.NOT_HEALED


def test_latency_is_held_against_its_baseline() -> None:
    """Twice the baseline is still inside, a hair more is not."""
    up, baseline = every_5_s(SINCE, 1180, 1.0), every_5_s(SINCE, 1180, 0.1)
    for value, verdict in ((0.2, Verdict.HEALED), (0.201, Verdict.NOT_HEALED)):
        stored = Stored(up=up, p95=every_5_s(SINCE, 1180, value), baseline=baseline)
        assert look(stored, "latency_p95", now=DEADLINE).verdict is verdict


@pytest.mark.parametrize("baseline", [None, NAN, float("inf")])
def test_latency_without_a_baseline_is_no_evidence(baseline: float | None) -> None:
    """A limit that cannot be computed is never kept: missing, NaN or infinite."""
    points = {} if baseline is None else {"baseline": every_5_s(SINCE, 1180, baseline)}
    stored = Stored(up=every_5_s(SINCE, 1180, 1.0), p95=every_5_s(SINCE, 1180, 0.1), **points)
    assert look(stored, "latency_p95", now=DEADLINE).verdict is Verdict.NO_EVIDENCE
    assert verifier(stored).health("cart", ["latency_p95"], 1100.0)[0] is Health.UNKNOWN


@pytest.mark.parametrize(
    ("start", "verdict"), [(500.0, Verdict.NOT_HEALED), (1001.0, Verdict.HEALED), (NAN, Verdict.NOT_HEALED)]
)
def test_the_target_must_run_a_newer_process(start: float, verdict: Verdict) -> None:
    """Perfect samples of the process from before the restart do not prove a restart."""
    stored = Stored(up=every_5_s(SINCE, 1180, 1.0), start=every_5_s(900, 1180, start))
    found = look(stored, now=DEADLINE, started_before=500.0)
    assert found.verdict is verdict
    assert any(fact.query == catalogue.start_time_of("cart") for fact in found.evidence)


def test_a_target_that_never_told_its_start_is_judged_by_its_samples() -> None:
    """Without a start time before the action there is nothing to compare."""
    stored = Stored(up=every_5_s(SINCE, 1180, 1.0))
    assert verifier(stored).start_time("cart", SINCE) is None
    assert look(stored, now=1100.0, started_before=None).verdict is Verdict.HEALED


def test_a_target_that_stopped_telling_its_start_is_no_evidence() -> None:
    """It told when it was started before the action and tells nothing now: silence is no new start."""
    stored = Stored(up=every_5_s(SINCE + 10, DEADLINE, 1.0))
    assert look(stored, now=SINCE + 100, started_before=500.0).verdict is None
    assert look(stored, now=DEADLINE, started_before=500.0).verdict is Verdict.NO_EVIDENCE


def test_a_few_milliseconds_are_no_latency_failure() -> None:
    """Twice a baseline of 4 ms is still fast: the limit is at least 50 ms above it, as the alert's is."""
    stored = Stored(
        up=every_5_s(SINCE + 10, DEADLINE, 1.0),
        p95=every_5_s(SINCE + 25, DEADLINE, 0.02),
        baseline=every_5_s(SINCE - 100, DEADLINE, 0.004),
    )
    assert look(stored, "latency_p95", now=SINCE + 100).verdict is Verdict.HEALED


def test_without_a_deadline_it_is_only_healed_or_nothing() -> None:
    """An escalated incident is watched without end."""
    for value, verdict in ((1.0, Verdict.HEALED), (0.0, None)):
        found = look(Stored(up=every_5_s(SINCE, 9000, value)), now=9000.0, deadline=None)
        assert found.verdict is verdict


def test_a_failing_query_is_not_a_verdict() -> None:
    """When Prometheus cannot be asked the caller hears it."""

    class Away(Stored):
        def raw(self, selector: str, *, seconds: float, at: float | None = None) -> tuple[Series, ...]:
            raise PrometheusUnavailable("gone")

    with pytest.raises(PrometheusUnavailable):
        look(Away(), now=1100.0)
    with pytest.raises(PrometheusUnavailable):
        verifier(Away()).health("cart", ["heartbeat"], 1100.0)


def after_a_gap(begins: float, value: float) -> Points:
    """As while a Prometheus is away: samples until 20 s before, and from then on again."""
    times, values = every_5_s(900, begins - 20, value)
    more = every_5_s(begins, 1000, value)
    return times + more[0], values + more[1]


CALM, BAD = every_5_s(900, 1000, 0.0), every_5_s(900, 1000, 0.9)
HEALTH: list[tuple[str, Mapping[str, Points], tuple[str, ...], Health]] = [
    ("errors now", {"errors": BAD}, ("error_ratio",), Health.FAILING),
    ("calm now", {"errors": CALM}, ("error_ratio",), Health.CALM),
    ("no series", {}, ("error_ratio",), Health.UNKNOWN),
    ("no signal", {"errors": CALM}, (), Health.UNKNOWN),
    ("only NaN", {"errors": every_5_s(900, 1000, NAN)}, ("error_ratio",), Health.UNKNOWN),
    ("old errors", {"errors": every_5_s(900, 980, 0.9)}, ("error_ratio",), Health.UNKNOWN),
    ("old calm", {"errors": every_5_s(900, 980, 0.0)}, ("error_ratio",), Health.UNKNOWN),
    (
        "one fails",
        {"errors": CALM, "up": every_5_s(900, 1000, 0.0)},
        ("error_ratio", "heartbeat"),
        Health.FAILING,
    ),
    ("one is unknown", {"errors": CALM}, ("error_ratio", "heartbeat"), Health.UNKNOWN),
    ("one fails, one is unknown", {"errors": BAD}, ("error_ratio", "heartbeat"), Health.FAILING),
    ("silent", {"up": every_5_s(900, 1000, 0.0)}, ("heartbeat",), Health.FAILING),
    ("silent just after a gap", {"up": after_a_gap(980, 0.0)}, ("heartbeat",), Health.UNKNOWN),
    ("silent long after a gap", {"up": after_a_gap(975, 0.0)}, ("heartbeat",), Health.FAILING),
    ("calm just after a gap", {"up": after_a_gap(980, 1.0)}, ("heartbeat",), Health.UNKNOWN),
    ("new and silent", {"up": every_5_s(990, 1000, 0.0)}, ("heartbeat",), Health.UNKNOWN),
    (
        "errors of seldom requests",
        {"errors": after_a_gap(995, 0.9), "up": every_5_s(900, 1000, 1.0)},
        ("error_ratio",),
        Health.FAILING,
    ),
    (
        "errors just after Prometheus's return",
        {"errors": after_a_gap(965, 0.9), "up": after_a_gap(965, 1.0)},
        ("error_ratio",),
        Health.UNKNOWN,
    ),
    (
        "errors long after Prometheus's return",
        {"errors": after_a_gap(960, 0.9), "up": after_a_gap(960, 1.0)},
        ("error_ratio",),
        Health.FAILING,
    ),
    ("exactly the limit", {"errors": every_5_s(900, 1000, 0.05)}, ("error_ratio",), Health.CALM),
]


@pytest.mark.parametrize(
    ("series", "signals", "expected"), [row[1:] for row in HEALTH], ids=[row[0] for row in HEALTH]
)
def test_health_is_what_the_newest_samples_say(
    series: Mapping[str, Points], signals: tuple[str, ...], expected: Health
) -> None:
    """Right before an effect: does it still fail? Old, missing and NaN samples do not know."""
    health, evidence = verifier(Stored(**series)).health("cart", signals, 1000.0)
    assert health is expected
    assert evidence or expected is Health.UNKNOWN


def test_only_known_signals_are_watched() -> None:
    """A stranger's signal name is not asked for."""
    labels = [{"signal": "cpu"}, {"signal": "x"}, {}, {"signal": "cpu"}, {"signal": "heartbeat"}]
    assert watched_signals(labels) == ("cpu", "heartbeat")


def test_the_same_baseline_belongs_to_the_same_series() -> None:
    """A namespace that is slower by nature is held against its own baseline."""
    fast, slow = every_5_s(SINCE, 1180, 0.1), every_5_s(SINCE, 1180, 1.0)
    stored = Stored(up=every_5_s(SINCE, 1180, 1.0), p95=[fast, slow], baseline=[fast, slow])
    assert look(stored, "latency_p95", now=DEADLINE).verdict is Verdict.HEALED
