"""The page of the shipped alerts, from the rule files and the runbooks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parents[2] / "alert_rules"
HEAD = """\
# Alerts

The alerting rules as shipped: scrapes and evaluations every 5 s, default thresholds. `shf rules` writes them for other ones
([signals and rules](signals.md)). An alert with a `signal` that the [route](../alert_rules/alertmanager.yml) names goes to the fabric;
the others are for people.

This page is generated from the rules and their runbooks (`docs/generate_reference.py`).

| alert | severity | for | signal | meaning |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    alerts = list(_alerts())
    rows = "".join(
        f"| [{rule['alert']}](#{rule['alert'].lower()}) | {rule['labels']['severity']} | {rule.get('for', '0s')} "
        f"| {rule['labels'].get('signal', '')} | {_first_sentence(_meaning(rule['alert']))} |\n"
        for rule in alerts
    )
    return HEAD + rows + "".join(map(_section, alerts))


def _alerts() -> Iterator[dict[str, Any]]:
    for path in sorted(RULES.glob("*.rules.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from (rule for rule in group["rules"] if "alert" in rule)


def _meaning(name: str) -> str:
    """What the runbook says first; sentences go over the ends of lines."""
    page = (RULES / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
    found = re.search(r"## Meaning\n+(.*?)\n\n", page, re.S)
    if found is None:
        raise ValueError(f"{name}: the runbook has no section Meaning")
    return " ".join(found[1].split())


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0].replace("|", r"\|")


def _section(rule: dict[str, Any]) -> str:
    name = rule["alert"]
    keep = f"; keeps firing for {rule['keep_firing_for']}" if "keep_firing_for" in rule else ""
    return (
        f"\n## {name}\n\n{_meaning(name)}\n\n"
        f"{rule['labels']['severity']}, for {rule.get('for', '0s')}{keep}. "
        f"[Runbook](../alert_rules/runbooks/{name}.md)\n\n```promql\n{rule['expr'].strip()}\n```\n"
    )
