"""The minutes around an alert, asked of Prometheus in one query, and what they say.

A range query is the dearest thing that a diagnosis asks, and the one that a busy Prometheus refuses first.
Then the diagnosis goes on without it: it names less and says what it could not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from self_healing_fabric.diagnosis.calibration import Calibration
from self_healing_fabric.diagnosis.call_graph import CallGraph
from self_healing_fabric.diagnosis.localization import Localization, localize
from self_healing_fabric.diagnosis.patterns import Change
from self_healing_fabric.diagnosis.scoring import Symptom
from self_healing_fabric.diagnosis.windows import RangeSource, collect_window, window_of
from shf_queries import QueryError

HISTORY = 3600.0  # seconds before the alert: what is normal
LONGEST_FAILURE = 3600.0  # seconds after it: Prometheus refuses a range of days, and the beginning tells most
FINEST_STEP = 5.0  # seconds: an hour is 720 samples then
MOST_SERVICES = 60  # the alerting one's neighbourhood in the call graph; farther ones are not asked about


def locate(
    source: RangeSource,
    *,
    symptom: Symptom,
    graph: CallGraph,
    at: float,
    interval: float,
    changes: Sequence[Change] = (),
    calibration: Calibration | None = None,
    without: str | None = None,
) -> Localization:
    """Ask for the series around the symptom and localise; `interval` is the longer of scrape and evaluation.

    `without`: a service that is known not to be the cause, whatever its series say. A query that fails lowers
    the confidence to nothing and is named as missing; it does not raise.
    """
    near = graph.neighbourhood(symptom.service, MOST_SERVICES)
    try:
        window = collect_window(
            source,
            [each for each in near if each != without],
            start=min(symptom.at, at) - HISTORY,
            end=min(at, symptom.at + LONGEST_FAILURE),
            step=max(interval, FINEST_STEP),
        )
    except QueryError as error:
        found = localize(window_of(()), symptom, graph, changes, calibration)
        return replace(found, missing=(f"series over time: {error}",))
    return localize(window, symptom, graph, changes, calibration)
