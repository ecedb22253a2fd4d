"""What strategies achieved, for people: counts, rates and their interval."""

from typing import Any

from click.testing import CliRunner

from self_healing_fabric import screens
from self_healing_fabric.cli import main
from self_healing_fabric.store import statements


def test_the_record_of_each_strategy_is_listed(api: Any) -> None:
    """Newest verified attempts by target, class and pattern; what has no verdict is not counted."""
    incident_id = api.open("cart")

    def write(connection: Any) -> None:
        for number, verdict in enumerate(["healed", "healed", "not_healed", None]):
            statements.insert_action(
                connection,
                {
                    "id": f"a{number}", "incident_id": incident_id, "strategy": "restart", "platform": "http",
                    "target": "http:cart", "disruptive": True, "attempt": 1, "status": "succeeded",
                    "verdict": verdict, "before": {}, "intended_at": float(number),
                    "failure_class": "service_failure", "pattern": "code_bug",
                },
            )  # fmt: skip

    api.store.write(write)
    (row,) = api.client.get("/api/v1/strategies").json["strategies"]
    assert (row["target"], row["strategy"], row["tried"], row["healed"]) == ("http:cart", "restart", 3, 2)
    assert 0.0 < row["rate_at_least"] < 2 / 3 < row["rate_at_most"] < 1.0


def test_the_table_escapes_what_strangers_wrote(capsys: Any) -> None:
    """A target's name must not paint the terminal."""
    from rich.console import Console

    row = {
        "target": "http:[red]x", "failure_class": "degradation", "pattern": "unknown", "strategy": "scale",
        "tried": 2, "healed": 1, "rate_at_least": 0.1, "rate_at_most": 0.9,
    }  # fmt: skip
    screens.list_strategies(Console(width=120), [row])
    assert "http:[red]x" in capsys.readouterr().out


def test_the_command_says_where_nothing_runs() -> None:
    """A sentence and status 1, no traceback."""
    result = CliRunner().invoke(main, ["strategies", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "Does `shf serve` run?" in result.output
