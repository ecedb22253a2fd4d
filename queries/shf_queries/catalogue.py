"""All PromQL that the fabric asks, by name, and the signals that the shipped rules record.

A query lives here or nowhere: names of series drift, and labels of alerts are written by strangers. Every
value that enters a query goes through `quote`, so a service called `x"} or vector(0) #` asks for a service of
that name and nothing else. The same texts appear in the evidence, so a person can paste them into Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def quote(value: str) -> str:
    """Quote a label value for PromQL: backslash, quote and newline are what its strings escape."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def one_of(values: Iterable[str]) -> str:
    """A quoted regular expression that matches exactly these values (RE2; anchored by Prometheus).

    Raises ValueError for no values at all: an empty expression would match every series without the label.
    """
    return quote(_any_of(values))


def _any_of(values: Iterable[str]) -> str:
    values = tuple(values)
    if not values:
        raise ValueError("no values: an empty set must not be read as everything")
    return "|".join(_escape_regex(value) for value in values)


def _escape_regex(value: str) -> str:
    return "".join(f"\\{char}" if char in r"\.+*?()|[]{}^$" else char for char in value)


@dataclass(frozen=True)
class Signal:
    """One thing that is measured for every service, and the series that record it.

    Attributes:
        name: as in the alert's label `signal` and in `shf_signal_threshold`.
        series: over the detection's window.
        fresh_series: over the short window, for proving that an action worked.
        baseline_series: what the limit is relative to, or None for an absolute limit.
        higher_is_worse: on which side of the limit trouble lies.
        unit: for people.
        windowed: whether `fresh_series` still contains samples from before an action for a short window after
            it.
    """

    name: str
    series: str
    fresh_series: str
    unit: str
    higher_is_worse: bool = True
    baseline_series: str | None = None
    windowed: bool = True


HEARTBEAT = Signal(
    "heartbeat",
    "service:shf_heartbeat:answered",
    "service:shf_up:ratio",
    "share of targets that answer",
    higher_is_worse=False,
    windowed=False,
)
ERROR_RATIO = Signal(
    "error_ratio", "service:shf_errors:ratio", "service:shf_errors:ratio_short", "share of requests failing"
)
LATENCY_P95 = Signal(
    "latency_p95",
    "service:shf_latency:p95_seconds",
    "service:shf_latency:p95_seconds_short",
    "P95 in seconds",
    baseline_series="service:shf_latency:p95_seconds_baseline",
)
CPU = Signal("cpu", "service:shf_cpu:utilisation", "service:shf_cpu:utilisation_short", "share of its CPU")
MEMORY = Signal(
    "memory",
    "service:shf_memory:utilisation",
    "service:shf_memory:utilisation",
    "share of its memory",
    windowed=False,
)
STATE_DIGESTS = "service:shf_state:digests"  # different states that replicas hold which must hold the same
STATE_DIVERGENCE = Signal(
    "state_divergence", STATE_DIGESTS, STATE_DIGESTS, "different states of its replicas", windowed=False
)
CONFIG_DRIFT = "service:shf_config_drift:paths"  # in which a configuration differs from the wanted one
DRIFT = Signal("config_drift", CONFIG_DRIFT, CONFIG_DRIFT, "places that differ", windowed=False)

SIGNALS = {
    signal.name: signal
    for signal in (HEARTBEAT, ERROR_RATIO, LATENCY_P95, CPU, MEMORY, DRIFT, STATE_DIVERGENCE)
}
REQUEST_RATE = "service:shf_requests:rate"


PLACE = ("cluster", "namespace")  # the labels by which what is recorded of one service is told apart


def series_of(series: str, service: str, place: Sequence[str] | None = None) -> str:
    """One recorded series of one service: `service:shf_up:ratio{service="cart"}`; where several clusters or
    namespaces record it, that of one `place`, given as the values of `PLACE`."""
    labels = {"service": service, **(dict(zip(PLACE, place, strict=True)) if place is not None else {})}
    return f"{series}{{{','.join(f'{name}={quote(value)}' for name, value in labels.items())}}}"


def all_signals_of(services: Iterable[str]) -> str:
    """Everything that is recorded for these services, in one query."""
    return f'{{__name__=~"service:shf_.+",service=~{one_of(services)}}}'


def recorded_lately(services: Iterable[str]) -> str:
    """Which signals of these services were recorded within ten minutes, by the names in `signal_series`."""
    selector = f"{all_signals_of(services)}[10m]"
    named = f'label_replace(last_over_time({selector}), "signal_series", "$1", "__name__", "(.+)")'
    return f"group by (service, signal_series) ({named})"


def answering_of(services: Iterable[str]) -> str:
    """The share of targets that answer now, of each of these services."""
    return f"{HEARTBEAT.fresh_series}{{service=~{one_of(services)}}}"


def start_time_of(service: str) -> str:
    """When the newest process of the service started, in seconds since 1970."""
    return f"max({' or '.join(_of_targets('process_start_time_seconds', [service]))})"


def start_times_of(services: Iterable[str]) -> str:
    """When the newest process of each of the services started, in seconds since 1970."""
    named, by_job = _of_targets("process_start_time_seconds", services)
    renamed = f'label_replace({by_job}, "service", "$1", "job", "(?:.*/)?([^/]+)")'
    return f"max by (service) ({named} or {renamed})"


def answering_targets_of(service: str) -> str:
    """How many targets of the service answer: its scrapes, or its health probes where it has no scrapes; no
    sample for a service without any.

    The `up` of a probe tells of the exporter, not of the service.
    """
    scrapes, probes = (" or ".join(_of_targets(each, [service])) for each in ("up", "probe_success"))
    return f"sum(({scrapes}) unless on (job, instance) target:shf_probe:seen) or sum({probes})"


def usual_request_rate_of(service: str, place: Sequence[str] | None = None) -> str:
    """The request rate that was usual in the half hour that ended ten minutes ago."""
    return f"quantile_over_time(0.5, {series_of(REQUEST_RATE, service, place)}[30m] offset 10m)"


def budget_burn(window: str) -> str:
    """The recorded series of how many times too fast a service used its error budget: 5m, 30m, 1h or 6h."""
    return f"service:shf_error_budget:burn{window}"


def missed_heartbeats_of(service: str) -> str:
    """How often in the last hour targets of the service stopped answering, having answered before."""
    return f"max(resets({series_of(HEARTBEAT.fresh_series, service)}[1h]))"


def least_of(series: str, service: str) -> str:
    """The smallest value of a recorded series in the last hour: tells what is new from what is always so."""
    return f"min(min_over_time({series_of(series, service)}[1h]))"


def courses_of(series: Iterable[str], service: str) -> str:
    """These recorded series of one service, in one query: for a plot of them over time."""
    return f"{{__name__=~{one_of(series)},service={quote(service)}}}"


def scrapes_of(services: Iterable[str]) -> tuple[str, str]:
    """One sample for each scrape of the services' targets: two selectors, each a range by itself."""
    return _of_targets("up", services)


def _of_targets(metric: str, services: Iterable[str]) -> tuple[str, str]:
    """What the services' targets export: selectors of those that the label `service` names, and of those
    without it, which the part of their job behind the last `/` names. So do the rules."""
    named = _any_of(services)
    of_job = quote(f"(?:.*/)?(?:{named})")
    return f"{metric}{{service=~{quote(named)}}}", f'{metric}{{service="",job=~{of_job}}}'


# What the rules compute the signals of a service from, and read as long as Prometheus looks back.
_READ_BY_RULES = (
    "service_kind:shf_up:ratio",
    "service_source_outcome:shf_requests:rate_short",
    "service:shf_requests:source",
    "service_source:shf_latency:p95_seconds_short",
    "service_source:shf_cpu:utilisation_short",
    "service_source:shf_memory:utilisation",
)
_LOOK_BACK = 300  # seconds, by default


def left_over_of(service: str, older_than: float, *, within: float, step: float) -> str:
    """How often in the last `within` seconds, looked at each `step`, the rules read series of a service to
    which nothing had been added for `older_than` seconds; no sample for never.

    A series that ends while Prometheus is away has no mark of its end, and is read 5 min longer. One may be
    scraped or recorded less often than the others: then by three times what usually lies between its own
    samples.
    """
    read = [series_of(name, service) for name in _READ_BY_RULES]
    read += [*_of_targets("up", [service]), *_of_targets("probe_success", [service])]
    ended = [
        f"(time() - timestamp({each}) > {older_than:g})"
        f" > 3 * {_LOOK_BACK} / count_over_time({each}[{_LOOK_BACK}s])"
        for each in read
    ]
    return f"count_over_time(count({' or '.join(ended)})[{_seconds(within)}:{_seconds(step)}])"


def watchdog() -> str:
    """Answers when the shipped rules are loaded and evaluated."""
    return 'count(ALERTS{alertname="ShfWatchdog",alertstate="firing"})'


def firing_alerts_of(service: str) -> str:
    """The alerts of a service that the rules fire, whether or not anybody is notified of them."""
    return f'ALERTS{{alertstate="firing",service={quote(service)},signal!=""}}'


RULES = "shf_rules:info"  # its label `digest` tells which rules are loaded

# The jobs that are the fabric: 1 while one of its replicas answers its scrape.
FABRIC = "job:shf_fabric:up"

# What a diagnosis reads over time, and what each series measures. Left out: limits and baselines, which are
# computed from these, and the short windows, which repeat them with more noise.
DIAGNOSED = {
    REQUEST_RATE: "request_rate",
    ERROR_RATIO.series: "error_ratio",
    LATENCY_P95.series: "latency_p95_seconds",
    "service:shf_latency:mean_seconds": "latency_mean_seconds",
    CPU.series: "cpu_utilisation",
    MEMORY.series: "memory_utilisation",
    "service:shf_restarts:increase": "restarts_increase",
    HEARTBEAT.fresh_series: "up_ratio",
    CONFIG_DRIFT: "config_drift_paths",
    STATE_DIGESTS: "state_digests",
}
CUSTOM = "service:shf_custom:"  # whatever people record under it takes part in the diagnosis
_SERIES_OF_KIND = {kind: series for series, kind in DIAGNOSED.items()}


def diagnosed(services: Iterable[str]) -> str:
    """Everything that a diagnosis reads over time of these services, in one query."""
    names = "|".join((*DIAGNOSED, f"{CUSTOM}.+"))
    return f'{{__name__=~"{names}",service=~{one_of(services)}}}'


def kind_of_series(name: str) -> str:
    """What a recorded series measures, in words; empty for one that a diagnosis does not read."""
    return DIAGNOSED.get(name) or (name.removeprefix(CUSTOM) if name.startswith(CUSTOM) else "")


def kind_of_signal(name: str) -> str:
    """The kind of series that an alert's signal speaks of; empty for a signal that nothing is recorded
    for."""
    signal = SIGNALS.get(name)
    return (DIAGNOSED.get(signal.series) or DIAGNOSED.get(signal.fresh_series) or "") if signal else ""


def diagnosed_series_of(kind: str, service: str, peer: str = "") -> str:
    """The one series of `diagnosed` that measures `kind` at a service, towards a peer where there is one."""
    series = series_of(_SERIES_OF_KIND.get(kind, CUSTOM + kind), service)
    return f"{series[:-1]},peer={quote(peer)}}}" if peer else series


def edges_of(kind: str, callees: Iterable[str], caller: str) -> str:
    """The series of `diagnosed` that measure `kind` between one caller and some callees."""
    return f"{CUSTOM}{kind}{{service=~{one_of(callees)},peer={quote(caller)}}}"


@dataclass(frozen=True)
class Recorded:
    """A recorded series, `ago` seconds earlier, and without another one: PromQL that can be moved in time.

    `worst` is `max` or `min` where several clusters record it, and the worst of them counts.
    """

    selector: str
    ago: float = 0.0
    without: Recorded | None = None
    worst: str = ""

    def promql(self, later: float = 0.0) -> str:
        """The expression, of that many seconds later."""
        seconds = _seconds(abs(self.ago - later))
        sign = "-" if later > self.ago else ""
        own = self.selector if self.ago == later else f"{self.selector} offset {sign}{seconds}"
        own = f"{self.worst}({own})" if self.worst else own
        return own if self.without is None else f"{own} - {self.without.promql(later)}"


def quantile_of_window(
    series: Recorded, share: float, *, start: float, end: float, at: float, step: float
) -> str:
    """The quantile of a series' values from `start` to `end`, a whole number of steps later, for asking at
    `at`: all three in seconds since 1970, `step` in seconds.

    A subquery evaluates at multiples of its step only, so the series is moved until those fall on the samples
    that were read, and its window begins so much earlier. That is between two evaluations: from version 3 on
    Prometheus leaves out what lies exactly at the beginning of a window.
    """
    phase = end % step
    window = f"[{_seconds(end - start + phase + step / 2)}:{_seconds(step)}]"
    offset = f" offset {_seconds(at - end)}" if at > end else ""
    return f"quantile_over_time({share:g}, ({series.promql(phase)}){window}{offset})"


def _seconds(duration: float) -> str:
    milliseconds = round(duration * 1000)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


ABSENT = "service:shf_heartbeat:absent"  # 1 for a service that is expected and that nothing checks


def silent_services() -> str:
    """How many services have not answered for a whole heartbeat window, or are not even looked at."""
    return f"(count({HEARTBEAT.series} == 0) or vector(0)) + (count({ABSENT} == 1) or vector(0))"


def known_services() -> str:
    """How many services send heartbeats or should."""
    return f"(count({HEARTBEAT.series}) or vector(0)) + (count({ABSENT} == 1) or vector(0))"


def service_graph(metric: str, *, client: str, server: str) -> str:
    """Who called whom in the last five minutes: one sample for each pair, labelled `client` and `server`."""
    calls = f"sum by ({client}, {server}) (rate({metric}[5m])) > 0"
    named = f'label_replace({calls}, "client", "$1", "{client}", "(.*)")'
    return f'label_replace({named}, "server", "$1", "{server}", "(.*)")'
