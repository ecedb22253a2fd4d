"""Where routes lead, judged by Alertmanager's own tool; what is not certain is never called wrong."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from self_healing_fabric.routes import may_lead

ALERT = {"alertname": "ShfHeartbeatMissed", "service": "cart", "severity": "critical", "signal": "heartbeat"}
OURS = {"receiver": "fabric", "matchers": ['signal=~"heartbeat|cpu"']}


def critical(**more: Any) -> dict[str, Any]:
    """A route of people's own, which takes the alert."""
    return {"receiver": "people", "matchers": ['severity="critical"'], **more}


@pytest.mark.parametrize(
    "routes",
    [
        [],
        [OURS],
        [critical(), OURS],
        [critical(), OURS, {"receiver": "people"}],
        [critical(**{"continue": True}), OURS],
        [critical(routes=[OURS])],
        [critical(routes=[{"matchers": ['signal="cpu"'], "receiver": "fabric"}]), OURS],
        [{"receiver": "fabric", "routes": [{"receiver": "people"}]}],
        [{"receiver": "fabric", "routes": [{"matchers": ["signal=heartbeat"]}]}],
        [{"receiver": "fabric", "match": {"service": "cart"}, "match_re": {"signal": "heart.*"}}],
        [{"receiver": "fabric", "match_re": {"signal": "heart"}}],
        [{"receiver": "fabric", "matchers": ['service!="cart"']}],
        [{"receiver": "fabric", "matchers": ['service !~ "c|d"', 'signal =~ "heart(beat)?"']}],
        [{"receiver": "fabric", "matchers": ['alertname=~"Shf.*"', 'service="a\\"b"']}],
    ],
)
def test_what_is_known_goes_where_alertmanager_says(routes: list[dict[str, Any]], tmp_path: Path) -> None:
    """The same answer as `amtool config routes test` gives for an alert whose labels are all known."""
    amtool = shutil.which("amtool") or pytest.skip("NOT TESTED: amtool is not on PATH")
    root = {"receiver": "people", "routes": routes}
    file = tmp_path / "alertmanager.yml"
    file.write_text(yaml.safe_dump({"route": root, "receivers": [{"name": "people"}, {"name": "fabric"}]}))
    labels = [f"{name}={value}" for name, value in ALERT.items()]
    command = [amtool, "config", "routes", "test", f"--config.file={file}", *labels]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert may_lead(root, ALERT, "fabric") is ("fabric" in answer.strip().split(","))


@pytest.mark.parametrize(
    "matcher", ['cluster="north"', 'service=~"[[:alpha:]]+"', r'service=~"\\pL+"', "{odd}", 'service="\\x"']
)
def test_what_is_not_known_may_lead_on_and_may_not(matcher: str) -> None:
    """A label that comes later, or what is not understood: nobody is told that it is wrong."""
    mine = {"receiver": "fabric", "matchers": [matcher]}
    other = {"receiver": "people", "matchers": [matcher]}
    assert may_lead({"receiver": "people", "routes": [mine]}, ALERT, "fabric")
    assert may_lead({"receiver": "people", "routes": [other, OURS]}, ALERT, "fabric")
    assert may_lead({"receiver": "fabric", "routes": [other]}, ALERT, "fabric")
