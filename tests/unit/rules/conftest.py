"""The shipped rules, and the checkers of the servers that load them."""

import pytest
from rule_files import tool

from self_healing_fabric.rules import RuleParameters, render_rules


@pytest.fixture
def promtool() -> str:
    return tool("promtool")


@pytest.fixture
def amtool() -> str:
    return tool("amtool")


@pytest.fixture(scope="module")
def shipped() -> dict[str, str]:
    return render_rules(RuleParameters())
