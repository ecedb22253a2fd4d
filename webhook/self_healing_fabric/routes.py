"""Which alerts Alertmanager's routes lead to the fabric.

A receiver that no route leads to is the quietest mistake of all: rules fire, Alertmanager answers, and the
fabric says that all is well because nobody ever tells it anything. So the tree of routes is walked as
Alertmanager walks it, for the alerts of the shipped rules.

Only what is certain counts. An alert has labels that are not known before it fires (`cluster`, `namespace`,
what Prometheus adds), and a matcher may be written in a way that is not understood here: then either answer
is possible, and the route is taken to lead on and to let the later ones have the alert too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import yaml

from self_healing_fabric.deployment import deployment_files

_MATCHER = re.compile(r'\s*"?([^"=!~\s]+)"?\s*(=~|!~|!=|=)\s*(.*?)\s*', re.DOTALL)


def signal_alerts(signals: Collection[str]) -> Iterator[dict[str, str]]:
    """The labels that the shipped rules give to each alert with one of these signals."""
    for path in sorted(deployment_files("alert_rules").glob("*.rules.yml")):
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            for rule in group["rules"]:
                labels = rule.get("labels", {})
                if "alert" in rule and labels.get("signal") in signals:
                    yield {"alertname": rule["alert"], **labels}


def may_lead(route: Mapping[str, Any], labels: Mapping[str, str], receiver: str) -> bool:
    """Whether an alert with these labels, and others that are not known, may come to the receiver.

    Raises:
        AttributeError, TypeError: this is no tree of routes.
    """
    return _walk(route, labels, receiver, str(route.get("receiver")))[1]


def _walk(
    route: Mapping[str, Any], labels: Mapping[str, str], receiver: str, inherited: str
) -> tuple[bool | None, bool]:
    """Whether the route takes the alert (None: not known), and whether that may lead to the receiver."""
    takes = _takes(route, labels)
    if takes is False:
        return False, False
    own = str(route.get("receiver") or inherited)
    leads = passed_on = False
    for child in route.get("routes") or ():
        child_takes, child_leads = _walk(child, labels, receiver, own)
        leads = leads or child_leads
        passed_on = passed_on or child_takes is True
        if child_takes and not child.get("continue"):
            break
    return takes, leads or (not passed_on and own == receiver)


def _takes(route: Mapping[str, Any], labels: Mapping[str, str]) -> bool | None:
    told = [
        *(_matches(labels, name, "=", value) for name, value in (route.get("match") or {}).items()),
        *(_matches(labels, name, "=~", value) for name, value in (route.get("match_re") or {}).items()),
        *(_as_written(labels, matcher) for matcher in route.get("matchers") or ()),
    ]
    if False in told:
        return False
    return None if None in told else True


def _as_written(labels: Mapping[str, str], matcher: object) -> bool | None:
    found = _MATCHER.fullmatch(str(matcher))
    if found is None:
        return None
    name, operator, value = found.groups()
    if value.startswith('"'):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return _matches(labels, name, operator, value)


def _matches(labels: Mapping[str, str], name: str, operator: str, value: object) -> bool | None:
    if name not in labels:
        return None
    if operator in ("=", "!="):
        same = labels[name] == str(value)
    elif "[[:" in str(value):  # a class of characters for Go, a set with other members for Python
        return None
    else:
        try:
            same = re.fullmatch(str(value), labels[name]) is not None
        except re.error:  # what Go understands and Python does not
            return None
    return same is not operator.startswith("!")
