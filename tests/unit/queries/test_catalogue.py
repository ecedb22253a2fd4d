"""The catalogue: whatever a label holds, a query asks for exactly that value and for nothing else."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shf_queries import catalogue
from shf_queries.catalogue import SIGNALS, all_signals_of, one_of, quote, series_of

LABELS = st.text(st.characters(exclude_categories=["Cs"]))
HOSTILE = st.text(st.sampled_from('"\\\n{}=~,#|.*()[]^$+? a')) | LABELS
NASTY = [
    'x"} or vector(0) #',
    "back\\slash",
    'quo"te',
    "new\nline",
    "tab\t",
    "Ünï✓",
    "a|b",
    ".*",
    "",
    "\\",
    '\\"',
]
ESCAPES = {"\\": "\\", '"': '"', "n": "\n"}


def read_string(text: str) -> tuple[str, str]:
    """Read a double-quoted PromQL string as Prometheus does; return its value and what follows."""
    assert text[0] == '"'
    value, position = "", 1
    while text[position] != '"':
        assert text[position] != "\n", "unterminated quoted string"
        if text[position] == "\\":
            position += 1
            value += ESCAPES[text[position]]
        else:
            value += text[position]
        position += 1
    return value, text[position + 1 :]


@given(HOSTILE)
def test_a_quoted_value_is_read_back_unchanged_with_nothing_left_over(value: str) -> None:
    """A value that holds quotes, backslashes or newlines stays one string."""
    assert read_string(quote(value)) == (value, "")


@given(HOSTILE)
def test_no_service_name_breaks_out_of_its_selector(service: str) -> None:
    """A selector of one series ends with the brace that the catalogue wrote."""
    selector = series_of("service:shf_up:ratio", service)
    prefix = "service:shf_up:ratio{service="
    assert selector.startswith(prefix)
    assert read_string(selector.removeprefix(prefix)) == (service, "}")


@given(st.lists(HOSTILE, min_size=1, max_size=4), HOSTILE)
def test_one_of_matches_its_values_and_no_other(values: list[str], other: str) -> None:
    """A dot or a bar in a name is no wildcard."""
    pattern, rest = read_string(one_of(values))
    assert rest == ""
    for value in (*values, other):
        assert bool(re.fullmatch(pattern, value)) is (value in values)


@given(st.lists(HOSTILE, min_size=1, max_size=3))
def test_all_signals_of_several_services_stays_one_selector(services: list[str]) -> None:
    """The names cannot end the selector that asks for all signals."""
    _, rest = read_string(all_signals_of(services).removeprefix('{__name__=~"service:shf_.+",service=~'))
    assert rest == "}"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_prometheus_itself_parses_every_query_of_hostile_names(tmp_path: Path) -> None:
    """promtool accepts each query of the catalogue for names that try to break out."""
    graph = catalogue.service_graph("traces_service_graph_request_total", client="client", server="server")
    queries = [catalogue.silent_services(), catalogue.known_services(), graph]
    for value in NASTY:
        queries += [
            *(series_of(signal.series, value) for signal in SIGNALS.values()),
            all_signals_of([value, "cart"]),
            catalogue.start_time_of(value),
            catalogue.start_times_of([value, "cart"]),
            catalogue.answering_targets_of(value),
            catalogue.usual_request_rate_of(value),
            catalogue.missed_heartbeats_of(value),
            catalogue.least_of(catalogue.STATE_DIGESTS, value),
            catalogue.diagnosed([value, "cart"]),
            catalogue.diagnosed_series_of("latency_p95_seconds", value, value),
        ]
    rules = [{"record": f"r{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}, allow_unicode=True))
    done = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_the_service_graph_names_who_calls_whom_now(tmp_path: Path) -> None:
    """One sample for each pair that calls, labelled alike whatever the labels of the metric."""
    metric = "istio_requests_total"
    expression = catalogue.service_graph(metric, client="source_app", server="destination_app")
    pair = 'source_app="{}",destination_app="{}"'
    series = {
        f'{metric}{{{pair.format("web", "cart")},pod="1"}}': "0+30x20",
        f'{metric}{{{pair.format("web", "cart")},pod="2"}}': "0+30x20",
        f"{metric}{{{pair.format('cart', 'db')}}}": "0+10x5 _x15",
        f"{metric}{{{pair.format('web', 'mail')}}}": "7x20",
    }
    told = f'{{client="web",server="cart",{pair.format("web", "cart")}}}'
    case = {"expr": expression, "eval_time": "20m", "exp_samples": [{"labels": told, "value": 1}]}
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [case],
    }
    path = tmp_path / "graph_test.yml"
    path.write_text(yaml.safe_dump({"tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_the_last_hour_is_told_by_prometheus_itself(tmp_path: Path) -> None:
    """How often targets stopped answering, and whether it was different before: of this service only."""
    up, drift = catalogue.HEARTBEAT.fresh_series, catalogue.CONFIG_DRIFT
    series = {
        series_of(up, "flaps"): "1x9 0x4 1x9 0x4 1x9 0 1x9 0x9",
        series_of(up, "fell"): "1x50 0x9",
        series_of(up, "runs"): "1x59",
        series_of(drift, "new"): "0x30 2x29",
        series_of(drift, "old"): "2x59",
    }
    asked = [(catalogue.missed_heartbeats_of(name), times) for name, times in (("flaps", 4), ("fell", 1))]
    asked += [(catalogue.missed_heartbeats_of("runs"), 0)]
    asked += [(catalogue.least_of(drift, name), least) for name, least in (("new", 0), ("old", 2))]
    cases = [
        {"expr": expression, "eval_time": "59m", "exp_samples": [{"labels": "{}", "value": value}]}
        for expression, value in asked
    ]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": cases,
    }
    path = tmp_path / "hour_test.yml"
    path.write_text(yaml.safe_dump({"tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_targets_are_found_as_the_rules_name_their_service(tmp_path: Path) -> None:
    """By the label or by the job, and a probe's scrape of its exporter is no target that answers."""
    probe = 'job="health",instance="{}",service="labelled"'
    series = {
        'up{job="any",instance="1",service="labelled"}': 1,
        'up{job="any",instance="2",service="labelled"}': 0,
        f"up{{{probe.format('a')}}}": 1,
        f"probe_success{{{probe.format('a')}}}": 0,
        f"target:shf_probe:seen{{{probe.format('a')}}}": 1,
        'up{job="shop/by.job",instance="1"}': 1,
        'up{job="by.job",instance="2"}': 1,
        'up{job="byXjob",instance="3"}': 1,
        'up{job="by.job",instance="4",service="other"}': 1,
        'up{job="probed",instance="1"}': 1,
        'probe_success{job="probed",instance="1"}': 0,
        'target:shf_probe:seen{job="probed",instance="1"}': 1,
        'process_start_time_seconds{job="any",instance="1",service="labelled"}': 20,
        'process_start_time_seconds{job="any",instance="2",service="labelled"}': 30,
        'process_start_time_seconds{job="shop/by.job",instance="1"}': 40,
        'process_start_time_seconds{job="by.job",instance="4",service="other"}': 50,
    }
    answering = (("labelled", {"{}": 1}), ("by.job", {"{}": 2}), ("probed", {"{}": 0}), ("no", {}))
    asked: list[tuple[str, dict[str, int]]]
    asked = [(catalogue.answering_targets_of(name), samples) for name, samples in answering]
    asked += [(catalogue.start_time_of(name), {"{}": at}) for name, at in (("labelled", 30), ("by.job", 40))]
    of_all = {'{service="labelled"}': 30, '{service="by.job"}': 40}
    asked += [(catalogue.start_times_of(["labelled", "by.job", "no"]), of_all)]
    cases = [
        {
            "expr": expression,
            "eval_time": "0m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for expression, samples in asked
    ]
    given_series = [{"series": name, "values": str(value)} for name, value in series.items()]
    path = tmp_path / "targets_test.yml"
    path.write_text(yaml.safe_dump({"tests": [{"input_series": given_series, "promql_expr_test": cases}]}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_signals_are_found_by_the_name_that_alerts_carry() -> None:
    """The keys are the seven values of the alerts' label `signal`."""
    healed = {"heartbeat", "error_ratio", "latency_p95", "cpu", "memory", "config_drift", "state_divergence"}
    assert set(SIGNALS) == healed
    assert all(name == signal.name for name, signal in SIGNALS.items())


def test_an_empty_set_is_not_everything() -> None:
    """No values make no expression: an empty one would match all series that lack the label."""
    with pytest.raises(ValueError, match="must not be read as everything"):
        catalogue.one_of([])


def test_what_a_diagnosis_reads_is_recorded_by_the_shipped_rules() -> None:
    """Every series of the table exists; a renamed rule must not blind the diagnosis silently."""
    rules = "".join(path.read_text() for path in Path("alert_rules").glob("*.rules.yml"))
    assert [name for name in catalogue.DIAGNOSED if f"record: {name}\n" not in rules] == []


def test_a_kind_leads_to_its_series_and_back() -> None:
    """Of shipped series and of people's own; others are not read."""
    for name, kind in (*catalogue.DIAGNOSED.items(), (f"{catalogue.CUSTOM}pool_wait_ms", "pool_wait_ms")):
        assert catalogue.kind_of_series(name) == kind
        assert catalogue.diagnosed_series_of(kind, "cart") == f'{name}{{service="cart"}}'
        assert re.fullmatch(catalogue.diagnosed(["cart"]).split('"')[1], name)
    assert catalogue.kind_of_series("service:shf_cpu:threshold") == ""
    with_peer = catalogue.diagnosed_series_of("error_ratio", "cart", "web")
    assert with_peer == 'service:shf_errors:ratio{service="cart",peer="web"}'


def test_every_signal_has_a_kind_of_series() -> None:
    """So the series that alerted can be found; of an unknown signal there is none."""
    assert all(catalogue.kind_of_signal(name) for name in SIGNALS)
    assert catalogue.kind_of_signal("heartbeat") == "up_ratio"
    assert catalogue.kind_of_signal("stranger") == ""
