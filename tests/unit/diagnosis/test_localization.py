"""From series to a suspect: each row cuts if its rule is cut, and whatever the data, nothing raises."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self_healing_fabric.diagnosis.calibration import HELD, Calibration
from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.localization import (
    LEAST_CONFIDENCE,
    RULES_VERSION,
    Localization,
    localize,
)
from self_healing_fabric.diagnosis.patterns import Change, Pattern
from self_healing_fabric.diagnosis.scoring import Symptom
from self_healing_fabric.diagnosis.windows import window_of
from shf_queries import Series, catalogue

STEP = 15.0
BEFORE, AFTER = 120, 8
ALERT = STEP * BEFORE


def series(service: str, kind: str, values: Sequence[float], peer: str = "") -> Series:
    """A recorded series from time 0 on."""
    labels = {"__name__": f"{catalogue.CUSTOM}{kind}", "service": service} | ({"peer": peer} if peer else {})
    numbers = np.array(values, dtype=float)
    return Series(labels, STEP * np.arange(len(numbers)), numbers)


def noisy(level: float, seed: int = 0, count: int = BEFORE + AFTER) -> np.ndarray:
    """A series that wavers by 1 % around its level."""
    return level * (1 + 0.01 * np.random.default_rng(seed).normal(size=count))


def stepped(level: float, then: float, seed: int = 0, late: int = 0) -> np.ndarray:
    """Noisy, and at another level from the alert on (or from `late` samples before it)."""
    values = noisy(level, seed)
    values[BEFORE - late :] *= then / level
    return values


def found(
    rows: Mapping[tuple[str, str], Sequence[float]],
    *,
    calls: Sequence[tuple[str, str]] = (("web", "cart"), ("cart", "db")),
    kind: str = "",
    changes: Sequence[Change] = (),
    calibration: Calibration | None = None,
    at: float = ALERT,
) -> Localization:
    """Localise an alert at `web`."""
    window = window_of([series(service, name, values) for (service, name), values in rows.items()])
    return localize(window, Symptom("web", kind, at), CallGraph(calls), changes, calibration)


def support(*rows: Any, **more: Any) -> Any:
    """What the confidence is computed from."""
    return found(*rows, **more).support


def calm() -> dict[tuple[str, str], Sequence[float]]:
    """Three services in which nothing happens."""
    return {
        (service, kind): noisy(level, seed)
        for seed, (service, kind, level) in enumerate(
            (service, kind, level)
            for service in ("web", "cart", "db")
            for kind, level in (("latency_p95_seconds", 0.1), ("cpu", 0.3), ("request_rate", 50.0))
        )
    }


def slow_database() -> dict[tuple[str, str], Sequence[float]]:
    """db becomes slow, and so do those who wait for it."""
    return calm() | {
        (service, "latency_p95_seconds"): stepped(level, level + 0.4, seed)
        for seed, (service, level) in enumerate((("web", 0.1), ("cart", 0.05), ("db", 0.02)))
    }


def test_the_callee_that_explains_its_callers_is_the_cause() -> None:
    """Three services are equally slower; the one at the end of the calls is named, with its claims."""
    diagnosis = found(slow_database(), kind="latency_p95_seconds")
    assert diagnosis.order[0] == "db"
    assert not diagnosis.abstained
    claim = diagnosis.suspects[0].claims[0]
    assert (claim.kind, claim.baseline) == ("latency_p95_seconds", pytest.approx(0.02, rel=0.02))
    assert claim.value == pytest.approx(0.42, rel=0.05)
    assert claim.series == 'service:shf_latency:p95_seconds{service="db"}'


def test_without_the_graph_nobody_is_explained_away() -> None:
    """The graph is what tells the cause from its victims, and its absence is told."""
    diagnosis = found(slow_database(), calls=())
    assert "who calls whom" in diagnosis.missing
    cart_beside_db = [
        one.suspects[1].score / one.suspects[0].score for one in (diagnosis, found(slow_database()))
    ]
    assert cart_beside_db[0] > 0.8 > 0.5 > cart_beside_db[1]


def test_quiet_series_name_nothing() -> None:
    """An alert without any shift abstains, keeps the alerting service as its lead, and says what to ask."""
    diagnosis = found(calm(), kind="latency_p95_seconds")
    assert diagnosis.abstained
    assert diagnosis.pattern is Pattern.UNKNOWN
    assert diagnosis.lead == "web"
    assert diagnosis.next_query == 'service:shf_latency:p95_seconds{service="web"}'
    assert diagnosis.confidence < LEAST_CONFIDENCE


def test_a_small_shift_is_no_finding_even_without_any_rival() -> None:
    """One vague series, slightly off, and nothing else measured that moves: a lead and no cause."""
    rows = {("db", "request_rate"): stepped(50, 70), ("cart", "request_rate"): noisy(50)}
    diagnosis = found(rows, calls=())
    assert diagnosis.confidence > LEAST_CONFIDENCE
    assert (diagnosis.abstained, diagnosis.lead) == (True, "db")


@pytest.mark.parametrize(("told", "abstained"), [(0.45, True), (0.55, False)])
def test_what_is_likelier_wrong_than_right_is_a_lead(told: float, abstained: bool) -> None:
    """After verdicts that leave 0.45 of the clearest fault nothing is named, with 0.55 it is."""
    doubts = Calibration(shift=float(np.log(told / (1 - told))), slope=0.0, verdicts=50)
    diagnosis = found(slow_database(), kind="latency_p95_seconds", calibration=doubts)
    assert diagnosis.confidence == pytest.approx(told)
    assert (diagnosis.lead, diagnosis.abstained) == ("db", abstained)


def test_series_that_ended_before_the_alert_name_nothing() -> None:
    """The target vanished with its failure: what it said before is no evidence, and that is told."""
    rows = {key: values[:BEFORE] for key, values in slow_database().items()}
    diagnosis = found(rows, at=ALERT + 600)
    assert diagnosis.abstained
    assert "samples since the alert" in diagnosis.missing


def test_no_series_at_all_is_unknown() -> None:
    """Nothing measured: nothing named, and the query that would show something."""
    diagnosis = found({})
    assert (diagnosis.abstained, diagnosis.order, diagnosis.confidence) == (True, (), 0.0)
    assert 'service=~"web"' in diagnosis.next_query


def test_the_alert_may_be_late() -> None:
    """With the alert 120 s after the onset the same service is named, and the onset is found."""
    rows = slow_database()
    at_once = found(rows, kind="latency_p95_seconds")
    late = found(rows, kind="latency_p95_seconds", at=ALERT + 120)
    assert late.order[0] == at_once.order[0] == "db"
    assert late.onset_at == at_once.onset_at == ALERT
    assert late.before_alert == 120


def test_asked_at_once_the_samples_before_the_alert_count() -> None:
    """A diagnosis at the moment of the alert sees what the rule saw."""
    rows = {key: values[: BEFORE + 1] for key, values in slow_database().items()}
    rows = {
        key: stepped(1, 9, late=6)[: BEFORE + 1] if key[1].startswith("lat") else v for key, v in rows.items()
    }
    assert found(rows, at=ALERT + STEP).order[0] == "db"


def test_a_level_that_changed_an_hour_ago_is_no_trace_of_the_alert() -> None:
    """cart's memory grew long before; db's CPU with the alert."""
    old = noisy(2e8)
    old[70:] *= 4  # of 120 samples before the alert, of which 40 may be ill
    rows = calm() | {("cart", "memory"): old, ("db", "cpu"): stepped(0.3, 0.9)}
    assert found(rows).order[0] == "db"


def test_memory_that_grew_by_a_little_exhausts_nothing() -> None:
    """A restart's 30 MB are no leak, though they are far outside the spread."""
    rows = calm() | {("cart", "memory"): stepped(1.3e7, 4.3e7), ("db", "cpu"): stepped(0.3, 0.45)}
    assert found(rows).order[0] == "db"


def test_cpu_that_follows_the_load_is_discounted() -> None:
    """cart's CPU doubled with its requests; db's doubled without."""
    rows = calm() | {
        ("cart", "cpu"): stepped(0.3, 0.6),
        ("cart", "request_rate"): stepped(50, 100),
        ("db", "cpu"): stepped(0.3, 0.59, seed=3),
    }
    assert found(rows).order[0] == "db"


def test_few_requests_prove_little() -> None:
    """Errors of two requests count less than those of thousands."""
    rows = calm() | {
        ("cart", "error_ratio"): stepped(0.001, 0.6),
        ("cart", "request_rate"): noisy(0.02),
        ("db", "error_ratio"): stepped(0.001, 0.5, seed=2),
    }
    assert found(rows).order[0] == "db"


def test_who_is_not_called_is_unlikely() -> None:
    """A stranger's equal shift counts less, and a mere onlooker's still less."""
    rows = calm() | {
        ("db", "cpu"): stepped(0.3, 0.8),
        ("mail", "cpu"): stepped(0.3, 0.82, seed=5),
        ("gateway", "error_ratio"): stepped(0.001, 0.9),
    }
    diagnosis = found(rows, calls=(("web", "cart"), ("cart", "db"), ("shop", "mail")))
    assert diagnosis.order[0] == "db"
    assert diagnosis.order.index("mail") < diagnosis.order.index("gateway")


def test_the_share_of_the_alerts_volume_decides() -> None:
    """Two callees are slower by as many deviations; the one that adds the alert's seconds is named."""
    rows = calm() | {
        ("web", "latency_p95_seconds"): stepped(0.1, 0.5),
        ("cart", "latency_p95_seconds"): stepped(0.5, 0.9, seed=1),
        ("db", "latency_p95_seconds"): stepped(0.005, 0.05, seed=2),
    }
    diagnosis = found(rows, calls=(("web", "cart"), ("web", "db")), kind="latency_p95_seconds")
    assert diagnosis.order[0] == "cart"


def test_an_alert_that_no_callee_explains_speaks_for_its_own_service() -> None:
    """Equal shifts at web and db; web's own alert is not explained by any callee."""
    rows = calm() | {
        ("web", "error_ratio"): stepped(0.01, 0.2),
        ("db", "cpu"): stepped(0.3, 0.9, seed=2),
    }
    plain = found(rows)
    named = found(rows, kind="error_ratio")
    assert named.suspects[0].service == "web"
    scores = {one.service: one.score for one in named.suspects}
    before = {one.service: one.score for one in plain.suspects}
    assert scores["web"] - 0.5 == pytest.approx(1.3 * (before["web"] - 0.5), rel=0.1)


def test_the_earlier_of_equals_is_named() -> None:
    """Equal shifts, one a minute before the other."""
    rows = calm() | {("cart", "disk"): stepped(10, 20, 1), ("db", "disk"): stepped(10, 20, 1, late=4)}
    rows["cart", "disk"][BEFORE : BEFORE + 1] = 10  # type: ignore[index]
    assert found(rows).order[0] == "db"


def test_the_first_trouble_is_told_first() -> None:
    """Of a service's shifted series the claim that leads is the one nearest to a cause, not the farthest."""
    rows = calm() | {("db", "cpu"): stepped(0.3, 0.9), ("db", "latency_p95_seconds"): stepped(0.02, 3.0)}
    claims = found(rows).suspects[0].claims
    assert [claim.kind for claim in claims] == ["cpu", "latency_p95_seconds"]


def test_a_series_that_something_else_explains_does_not_lead() -> None:
    """Little memory grew, far outside its spread: the CPU is told first."""
    rows = calm() | {("db", "cpu"): stepped(0.3, 0.9), ("db", "memory"): stepped(1.3e7, 4.3e7)}
    assert [claim.kind for claim in found(rows).suspects[0].claims][:2] == ["cpu", "memory"]


def test_a_history_that_is_never_quiet_lowers_the_confidence() -> None:
    """The same shift is believed less where quiet windows of the history look like it."""
    steady = calm() | {("db", "cpu"): stepped(0.3, 0.36)}
    restless = dict(steady)
    spikes = noisy(0.1, 9)
    spikes[87:97] = 5.0
    restless["cart", "latency_p95_seconds"] = spikes
    quiet, loud = found(steady), found(restless)
    assert max(loud.quiet) > max(quiet.quiet) + 1
    assert loud.confidence < quiet.confidence


def test_a_quiet_window_is_no_part_of_its_own_baseline() -> None:
    """A quarter of the history is another level: in its own baseline it would widen what counts as usual."""
    swollen = noisy(0.1, 9)
    swollen[30:60] = 5.0
    rows = calm() | {("db", "cpu"): stepped(0.3, 0.36), ("cart", "latency_p95_seconds"): swollen}
    assert max(found(rows).quiet) > 4


def test_how_many_quiet_windows_hold_as_much_is_told() -> None:
    """Against the diagnosis, with the chance that noise does, and what that allows."""
    swollen = noisy(0.1, 9)
    swollen[30:60] = 5.0
    rows = calm() | {("db", "cpu"): stepped(0.3, 0.36), ("cart", "latency_p95_seconds"): swollen}
    diagnosis = found(rows)
    assert diagnosis.support is not None
    as_high = sum(evidence >= diagnosis.support.evidence for evidence in diagnosis.quiet)
    assert as_high > 0
    told = " ".join(diagnosis.against)
    assert f"{as_high} of {len(diagnosis.quiet)} quiet windows" in told
    assert f"a chance of {diagnosis.support.unusual:.0%}, so the series carry a confidence of at most" in told
    assert diagnosis.as_dict()["quiet_evidence"] == pytest.approx(diagnosis.quiet, rel=1e-5)


def test_quiet_windows_share_half_of_their_samples_where_the_history_is_short() -> None:
    """15 windows of 8 samples lie apart in 120, and 29 are compared; of a long history no more than 40."""
    diagnosis = support(calm() | {("db", "cpu"): stepped(0.3, 0.9)})
    assert (diagnosis.apart, len(diagnosis.quiet)) == (15, 29)
    older = {key: [*noisy(values[0], 3, 400), *values] for key, values in calm().items()}
    diagnosis = support(older, at=ALERT + 400 * STEP)
    assert (diagnosis.apart, len(diagnosis.quiet)) == (40, 40)


def test_a_short_history_proves_nothing_whatever_it_is_that_broke() -> None:
    """The clearest of faults: told with confidence after half an hour, as likely after three minutes."""
    broken = slow_database() | {("db", "cpu"): stepped(0.3, 30.0)}
    whole = found(broken, kind="latency_p95_seconds")
    kept = BEFORE - 14
    cut = found({key: values[kept:] for key, values in broken.items()}, at=ALERT - kept * STEP)
    assert whole.confidence > 0.9
    assert whole.order[0] == cut.order[0] == "db"
    assert LEAST_CONFIDENCE < cut.confidence <= HELD
    assert "enough quiet windows to compare with: 1 of 19" in cut.missing
    assert "the history is too short to tell it from noise" in " ".join(cut.against)
    assert not [missed for missed in whole.missing if "quiet windows" in missed]


def test_who_only_suffers_from_the_cause_is_no_rival() -> None:
    """web and cart call db and show the same symptom, which is what db's predicts; without the graph they are
    rivals, and so is whoever shows a cause of its own."""
    alone, among = support(slow_database()), support(slow_database(), calls=())
    burning = support(slow_database() | {("cart", "cpu"): stepped(0.3, 0.9)})
    assert alone.second < 1 < among.second
    assert burning.second > 2


def test_who_accounts_for_the_alert_is_believed_more() -> None:
    """db adds as much latency as web's alert shows; what does not touch the alert's kind adds none of it."""
    explained = support(slow_database(), kind="latency_p95_seconds")
    assert explained.explains == pytest.approx(1.0, abs=0.05)
    assert explained.alert_seen is True
    other = support(calm() | {("db", "cpu"): stepped(0.3, 0.9)}, kind="latency_p95_seconds")
    assert (other.explains, other.alert_seen) == (0.0, False)


def test_an_alert_that_the_series_do_not_show_lowers_the_confidence() -> None:
    """web's latency alerted but did not move: what else moved is believed less."""
    rows = calm() | {("db", "cpu"): stepped(0.3, 0.5)}
    assert found(rows, kind="latency_p95_seconds").confidence < found(rows).confidence


def test_one_service_has_no_lead_over_others() -> None:
    """With a single service measured the confidence lacks what a lead would add, and that is told."""
    alone = {("web", "cpu"): stepped(0.3, 0.5)}
    diagnosis = found(alone)
    assert "series of any other service" in diagnosis.missing
    assert diagnosis.confidence < found(calm() | alone).confidence


def test_short_history_lowers_the_confidence() -> None:
    """Six samples before the onset are no hour, and that is told."""
    whole = slow_database()
    short = {key: values[BEFORE - 6 :] for key, values in whole.items()}
    diagnosis = found(short, at=STEP * 6)
    assert diagnosis.confidence < found(whole).confidence
    assert any("history: " in text for text in diagnosis.missing)


def test_what_is_not_measured_is_told() -> None:
    """Families that the suspect lacks, gaps, and services of the graph without series."""
    holes = stepped(0.3, 0.9)
    holes[np.arange(len(holes)) % 2 == 1] = np.nan
    diagnosis = found({("cart", "cpu"): holes, ("web", "cpu"): noisy(0.3)}, kind="error_ratio")
    told = " ".join(diagnosis.missing)
    assert "cart: memory, latency, errors, load" in told
    assert "series of db" in told
    assert "cart: 50% of its samples" in told
    assert "the series that alerted: error_ratio of web" in told


def test_of_many_services_without_series_a_few_are_named() -> None:
    """Whoever stands before hundreds reads what is missing, and not a page of names."""
    calls = [("web", f"s{number:03d}") for number in range(300)]
    missing = found({("web", "cpu"): noisy(0.3)}, calls=calls).missing
    assert "series of s000, s001, s002, s003, s004 and 295 more" in missing


def test_what_speaks_against_the_first_is_told() -> None:
    """The best rival with its score is named."""
    rows = calm() | {("db", "cpu"): stepped(0.3, 0.9), ("cart", "cpu"): stepped(0.3, 0.6)}
    diagnosis = found(rows)
    rival = diagnosis.suspects[1]
    assert rival.service == "cart"
    assert f"it may be cart as well: {rival.score:.2f} bits speak for it" in diagnosis.against[0]
    assert diagnosis.next_query == rival.claims[0].series


def test_verdicts_change_the_confidence_and_not_the_order() -> None:
    """A calibration that was often wrong flattens."""
    plain = found(slow_database())
    doubted = found(slow_database(), calibration=Calibration(shift=-1.0, slope=0.5, verdicts=20))
    assert doubted.confidence < plain.confidence
    assert doubted.order == plain.order


def test_the_output_is_json_with_its_version_and_the_order_of_series_decides_nothing() -> None:
    """The same series in another order give the same bytes."""
    rows = slow_database()
    one = json.dumps(found(rows, kind="latency_p95_seconds").as_dict())
    other = json.dumps(found(dict(reversed(rows.items())), kind="latency_p95_seconds").as_dict())
    assert one == other
    assert json.loads(one)["rules_version"] == RULES_VERSION


VALUES = st.one_of(
    st.floats(-1e12, 1e12), st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324])
)
ROWS = st.dictionaries(
    st.tuples(
        st.sampled_from(["web", "cart", "db", "x y"]),
        st.sampled_from(
            [
                "cpu",
                "memory",
                "latency_p95_seconds",
                "error_ratio",
                "request_rate",
                "calls_total",
                "up_ratio",
                "?",
            ]
        ),
    ),
    st.lists(VALUES, max_size=30),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(
    rows=ROWS, kind=st.sampled_from(["", "error_ratio"]), at=st.floats(-1e3, 1e3), change=st.floats(-1e3, 1e3)
)
def test_whatever_the_data_nothing_raises(
    rows: Mapping[tuple[str, str], Sequence[float]], kind: str, at: float, change: float
) -> None:
    """Short, empty, infinite or constant series: an answer with a confidence from 0 to 1, the same twice."""
    changes = [Change("web", change, "it started")]
    diagnosis = found(rows, kind=kind, at=at, changes=changes)
    again = found(rows, kind=kind, at=at, changes=changes)
    assert 0.0 <= diagnosis.confidence <= 1.0
    assert sum(diagnosis.shares.values()) == pytest.approx(1.0 if diagnosis.shares else 0.0)
    told: Any = json.dumps(diagnosis.as_dict(), allow_nan=False)
    assert told == json.dumps(again.as_dict())
