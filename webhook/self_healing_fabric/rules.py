"""Renders the Prometheus rules for the durations and thresholds of one installation.

The shipped rules are right for a 5 s scrape interval only: a rate over four samples, a heartbeat that
counts samples, a `for` that waits, all follow from it. Prometheus has no variables in rules, so people
edit numbers by hand and get rules that load, look right and never fire: a 15 s window on a 15 s scrape
has no rate at all. Here the rules are templates, every window is checked against the scrape interval, and
what cannot work is refused.

What the services export is brought into signals by adapters, one template for each convention in
`templates/adapters`; a rendering holds those that were asked for. They become parts of the groups that read
them: groups run concurrently, so an adapter in a group of its own would delay every alert by up to one
evaluation.

The templates use `<< >>` and `<% %>`, since `{{ }}` belongs to Prometheus's own annotations.
"""

import hashlib
import math
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from self_healing_fabric.deployment import deployment_files
from self_healing_fabric.durations import Duration, format_duration
from self_healing_fabric.settings import Settings

TEMPLATE_SUFFIX = ".yml.j2"
SAMPLES_OF_A_RATE = 4  # one lost scrape of four still leaves a rate; of two it leaves nothing
SAMPLES_OF_A_HEARTBEAT = 2  # one failed scrape happens on every loaded machine
BASELINE_POINTS = 360  # of a full baseline window: enough for a median, cheap for hundreds of services
PROMTOOL_TIMEOUT = 60.0  # seconds
DIGEST_LENGTH = 12  # hexadecimal digits
_DIGEST_HERE = "@digest@"
_RECORDED_DIGEST = re.compile(rf'digest: "([0-9a-f]{{{DIGEST_LENGTH}}})"')
_KUBERNETES_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
ADAPTERS = (  # the order in which their rules are written: probes are known before scrapes are counted
    *("blackbox", "scrape", "pushed"),
    *("prometheus_client", "opentelemetry", "native_histograms", "istio"),
    *("process", "kubernetes", "node"),
)
_URL = r"""^https?://[^\s"'\\{}<>?#]+[^\s"'\\{}<>?#/]$"""
RUNBOOKS = "https://github.com/self-healing-fabric/self-healing-fabric/blob/main/alert_rules/runbooks"


class RuleParameters(BaseModel):
    """What differs between installations.

    Durations are held in seconds and are read as `500ms`, `30s`, `2m` or `1h` too. Where the default is None,
    the value follows from the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scrape_interval: Duration = Field(5.0, ge=0.001, description="how often Prometheus scrapes the services")
    evaluation_interval: Duration | None = Field(
        None, gt=0, description="of the rules; None: Prometheus's own"
    )

    adapters: tuple[str, ...] = Field(
        ADAPTERS, min_length=1, description="conventions that the services measure by, separated by commas"
    )

    heartbeat: Duration = Field(30.0, description="a service silent for longer than this is reported")
    error_window: Duration = Field(60.0, description="the error ratio is that of this long")
    latency_window: Duration = Field(120.0, description="the P95 is that of this long")
    resource_window: Duration = Field(60.0, description="the CPU utilisation is that of this long")
    short_window: Duration = Field(
        None,
        validate_default=True,
        description="of the signals that prove a recovery; default 4 scrape intervals",
    )

    latency_for: Duration = Field(30.0, description="how long the P95 must stay high")
    resource_for: Duration = Field(120.0, description="how long CPU or memory must stay high")
    state_for: Duration = Field(60.0, description="how long drift or disagreement of replicas must last")
    restarts: int = Field(3, ge=1, description="more restarts of an instance are a loop")
    restart_window: Duration = Field(600.0, description="the restarts are those of this long")
    slow_interval: Duration = Field(
        60.0, gt=0, le=120, description="between evaluations of restarts, budgets and remembered thresholds"
    )
    keep_firing: Duration = Field(
        45.0,
        gt=0,
        description="how long an alert outlives its cause, or the series of a target that vanished",
    )

    unhealed_for: Duration = Field(
        900.0, gt=0, description="a critical alert that lasts for so long pages, whatever the fabric says"
    )

    baseline_window: Duration = Field(
        21_600.0, gt=0, description="the normal latency is the median of this long"
    )
    baseline_offset: Duration = Field(600.0, gt=0, description="and ends this long ago")
    baseline_interval: Duration = Field(
        None,
        gt=0,
        validate_default=True,
        description="between points of the baseline; default 1/360 of its window",
    )
    baseline_min_points: int = Field(
        None,
        gt=0,
        validate_default=True,
        description="fewer make no baseline; default 1/12 of those in the window",
    )

    error_ratio: float = Field(0.05, gt=0, lt=1, description="failed share of the requests")
    min_errors: int = Field(5, ge=1, description="failed requests in the error window")
    latency_factor: float = Field(2.0, gt=1, description="times the baseline's P95")
    latency_min_rise: Duration = Field(0.05, description="seconds above the baseline's P95")
    min_request_rate: float = Field(1.0, gt=0, description="requests/s below which latency is not judged")
    cpu: float = Field(0.90, gt=0, lt=1, description="share of the CPU that a process can use")
    memory: float = Field(0.95, gt=0, lt=1, description="share of the memory limit")

    runbook_base_url: str = Field(RUNBOOKS, pattern=_URL, description="folder of the runbooks' pages")
    dashboard_base_url: str | None = Field(
        None, pattern=_URL, description="dashboard with a variable `service`; None: alerts have no such link"
    )

    @field_validator("adapters", mode="before")
    @classmethod
    def _known_adapters(cls, value: object) -> object:
        """Sorted as ADAPTERS; a text holds names separated by commas."""
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return names
        unknown = sorted({str(name) for name in names} - set(ADAPTERS))
        if unknown:
            raise ValueError(f"no adapter {', '.join(unknown)}: there are {', '.join(ADAPTERS)}")
        return tuple(name for name in ADAPTERS if name in names)

    @field_validator("short_window", "baseline_interval", "baseline_min_points", mode="before")
    @classmethod
    def _derive(cls, value: object, info: ValidationInfo) -> object:
        """Fill in what follows from other parameters; 1 where those are wrong and reported themselves."""
        if value is not None:
            return value
        try:
            if info.field_name == "short_window":
                return SAMPLES_OF_A_RATE * info.data["scrape_interval"]
            if info.field_name == "baseline_interval":
                return max(info.data["scrape_interval"], info.data["baseline_window"] / BASELINE_POINTS)
            return max(3, round(info.data["baseline_window"] / info.data["baseline_interval"] / 12))
        except KeyError:
            return 1

    @model_validator(mode="after")
    def _refuse_what_cannot_work(self) -> Self:
        problems = [
            *self._too_short("heartbeat", SAMPLES_OF_A_HEARTBEAT, "scrape_interval"),
            *self._too_short("error_window", SAMPLES_OF_A_RATE, "scrape_interval"),
            *self._too_short("latency_window", SAMPLES_OF_A_RATE, "scrape_interval"),
            *self._too_short("short_window", SAMPLES_OF_A_RATE, "scrape_interval"),
            *self._too_short("resource_window", SAMPLES_OF_A_RATE, "scrape_interval"),
            *self._too_short("restart_window", self.restarts + 1, "scrape_interval"),
            *self._too_short("baseline_offset", 2, "baseline_interval"),
            *self._too_short("baseline_window", self.baseline_min_points, "baseline_interval"),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _too_short(self, name: str, count: int, interval_name: str) -> list[str]:
        window: float = getattr(self, name)
        interval: float = getattr(self, interval_name)
        least = count * interval
        if window >= least or math.isclose(window, least):
            return []
        return [
            f"{name} is {format_duration(window)} but needs {count} times {interval_name}, which is"
            f" {format_duration(interval)}: give at least {format_duration(least)}, or lower {interval_name}"
        ]

    @property
    def heartbeat_min_samples(self) -> int:
        """With fewer failed checks a target is new, not silent. Those of the window, less one for jitter."""
        return max(SAMPLES_OF_A_HEARTBEAT, int(self.heartbeat / self.scrape_interval + 1e-9) - 1)

    @property
    def blind_for(self) -> float:
        """Seconds: the doubt about the monitoring must be known before the first service is reported dead."""
        return self.heartbeat * 2 / 3


def configured_parameters(settings: Settings) -> dict[str, Any]:
    """What a configuration says of the rules' parameters; the others have their defaults."""
    intervals = {
        "scrape_interval": settings.prometheus.scrape_interval,
        "evaluation_interval": settings.prometheus.evaluation_interval,
    }
    return {**settings.thresholds.model_dump(), **intervals}


def render_rules(parameters: RuleParameters) -> dict[str, str]:
    """The rule files: name -> YAML. The same parameters always give the same text.

    One of the rules records which they are, see `digest_of`.
    """
    environment = _environment(deployment_files("alert_rules") / "templates")
    names = environment.list_templates(filter_func=lambda name: name.endswith(TEMPLATE_SUFFIX))
    texts = {
        name.removesuffix(".j2"): environment.get_template(name).render(
            p=parameters, template=name, digest=_DIGEST_HERE
        )
        for name in names
    }
    digest = hashlib.sha256("\n".join(map(_without_comments, texts.values())).encode()).hexdigest()
    return {name: text.replace(_DIGEST_HERE, digest[:DIGEST_LENGTH]) for name, text in texts.items()}


def digest_of(texts: Mapping[str, str]) -> str:
    """The digest that rendered rules record: of all that Prometheus reads in them."""
    (found,) = _RECORDED_DIGEST.findall("\n".join(texts.values()))
    return str(found)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def _environment(templates: Path) -> Environment:
    environment = Environment(  # noqa: S701 - the output is YAML; the parameters are validated, none is a free text
        loader=FileSystemLoader(templates),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["duration"] = format_duration
    environment.filters["number"] = _format_number
    return environment


def _format_number(value: float) -> str:
    return format(value, ".12g")


def write_rules(parameters: RuleParameters, out: Path) -> list[Path]:
    """Write the rule files into ``out`` and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in render_rules(parameters).items():
        path = out / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def prometheus_rule_manifest(
    parameters: RuleParameters, name: str, namespace: str | None, labels: Mapping[str, str]
) -> str:
    """All groups as one PrometheusRule for the Prometheus operator.

    ``labels`` must be those of the Prometheus object's `ruleSelector` (often `release: NAME`): the operator
    ignores a rule without them, and says nothing. Without ``namespace`` it is that of `kubectl apply`.
    """
    if not _KUBERNETES_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a Kubernetes object: lower case letters, digits, - and .")
    metadata: dict[str, Any] = {"name": name, "labels": dict(labels)}
    if namespace is not None:
        metadata["namespace"] = namespace
    groups = [group for text in render_rules(parameters).values() for group in yaml.safe_load(text)["groups"]]
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata,
        "spec": {"groups": groups},
    }
    return yaml.dump(manifest, Dumper=_BlockDumper, sort_keys=False, width=2**16, allow_unicode=True)


class _BlockDumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that the PromQL stays readable."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockDumper.add_representer(str, _represent_text)


def check_rules(paths: list[Path], promtool: str | None) -> list[str]:
    """What is wrong with these rule files: their YAML always, their PromQL when there is a promtool."""
    problems = []
    for path in paths:
        problem = _problem_of_yaml(path) or (_problem_of_promtool(path, promtool) if promtool else None)
        if problem:
            problems.append(f"{path}: {problem}")
    return problems


def _problem_of_yaml(path: Path) -> str | None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return str(error)
    if not isinstance(content, dict) or not isinstance(content.get("groups"), list):
        return "not a rule file: it has no list `groups`"
    return None


def _problem_of_promtool(path: Path, promtool: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - the program is the one that the caller chose
            [promtool, "check", "rules", str(path)],
            capture_output=True,
            text=True,
            timeout=PROMTOOL_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot run promtool: {error}"
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()
