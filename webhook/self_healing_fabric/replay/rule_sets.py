"""The rules that are replayed: those that `shf rules` would write, or files that somebody has edited.

Only what the shipped route sends to the fabric can open an incident: alerts whose label `signal` the fabric
knows. What says something of the monitoring itself is left out; the rest goes to people past the fabric, and
is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from self_healing_fabric.durations import Duration
from self_healing_fabric.errors import UsageError
from shf_queries.catalogue import SIGNALS
from shf_queries.evaluation import RecordingRule

SUFFIXES = (".yml", ".yaml")


@dataclass(frozen=True)
class AlertingRule:
    """One alert: `hold` is its `for`, `keep_firing` its `keep_firing_for`, both and `interval` in seconds."""

    name: str
    expression: str
    interval: float
    hold: float = 0.0
    keep_firing: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def for_the_fabric(self) -> bool:
        """Whether the shipped route of Alertmanager sends it to the fabric."""
        return self.labels.get("signal") in SIGNALS


@dataclass(frozen=True)
class RuleSet:
    """What is replayed; `left_out` are the alerts that are not, because they have no label `signal`."""

    recording: tuple[RecordingRule, ...]
    alerting: tuple[AlertingRule, ...]
    left_out: tuple[str, ...]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="ignore")

    record: str | None = None
    alert: str | None = None
    expr: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    hold: Duration = Field(0.0, alias="for")
    keep_firing_for: Duration = 0.0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Group(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    interval: Duration | None = None
    rules: list[_Rule] = []


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")

    groups: list[_Group]


def read_rules(files: Mapping[str, str], *, interval: float) -> RuleSet:
    """Read rule files: their texts by name. `interval`: of groups that name none, in seconds.

    Raises UsageError, which names the file.
    """
    recording: list[RecordingRule] = []
    alerting: list[AlertingRule] = []
    for name in sorted(files):
        for group in _groups(name, files[name]):
            every = group.interval or interval
            recording += [
                RecordingRule(rule.record, rule.expr, every, rule.labels)
                for rule in group.rules
                if rule.record is not None
            ]
            alerting += [_alert(name, rule, every) for rule in group.rules if rule.alert is not None]
    if not alerting:
        raise UsageError(f"{', '.join(sorted(files)) or 'no file'}: no alerting rule to replay")
    replayed = tuple(rule for rule in alerting if "signal" in rule.labels)
    left_out = tuple(rule.name for rule in alerting if "signal" not in rule.labels)
    return RuleSet(tuple(recording), replayed, left_out)


def rule_files_in(directory: Path) -> dict[str, str]:
    """The rule files of a folder, by name. Raises UsageError."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())
        texts = {str(path): path.read_text(encoding="utf-8") for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{directory}: cannot be read: {error}") from error
    found = {name: text for name, text in texts.items() if _holds_groups(text)}
    if not found:
        raise UsageError(f"{directory}: holds no rule file (*.yml or *.yaml with `groups`)")
    return found


def _holds_groups(text: str) -> bool:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return True  # to be complained of by its name
    return isinstance(content, dict) and "groups" in content


def _groups(name: str, text: str) -> list[_Group]:
    try:
        return _File.model_validate(yaml.safe_load(text)).groups
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not valid YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{name}: {where}: {first['msg']}") from error


def _alert(file: str, rule: _Rule, interval: float) -> AlertingRule:
    for label, value in rule.labels.items():
        if "{{" in value:
            raise UsageError(
                f"{file}: {rule.alert}: the label {label} is a template, which cannot be replayed"
            )
    return AlertingRule(
        str(rule.alert),
        rule.expr,
        interval,
        rule.hold,
        rule.keep_firing_for,
        rule.labels,
        rule.annotations,
    )
