"""`shf replay` where it cannot work: a sentence that says what to do, and the status."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from self_healing_fabric.cli import main

CONFIG = "prometheus: {url: 'http://127.0.0.1:9'}\nservices: {cart: {}}\n"


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        ([], 1, "shf: Prometheus at http://127.0.0.1:9 does not answer"),
        (["--service", "pay"], 2, "shf: no service is called pay"),
        (["--until", "tomorrow"], 2, "shf: 'tomorrow' is no time"),
        (["--since", "soon"], 2, "shf: 'soon' is no time"),
        (["--until", "2999-01-01"], 2, "shf: --since must be before --until, and --until not in the future"),
        (["--since", "2026-01-02", "--until", "2026-01-01"], 2, "shf: --since must be before --until"),
        (["--since", "1000000d"], 2, "shf: --since and --until: a replay cannot begin before 1970"),
        (["--since", "0001-01-01"], 2, "shf: --since and --until: a replay cannot begin before 1970"),
        (["--rules", "nowhere"], 2, "shf: nowhere: cannot be read"),
        (["--rules", "."], 2, "shf: .: holds no rule file"),
    ],
)
def test_what_cannot_work_is_said(
    options: list[str], status: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf").mkdir()
    Path("conf/shf.yml").write_text(CONFIG)
    done = CliRunner().invoke(main, ["replay", "--config", "conf/shf.yml", *options])
    assert done.exit_code == status
    assert done.stderr.startswith(sentence)
    assert "Traceback" not in done.output


def test_a_configuration_without_services_has_nothing_to_replay(tmp_path: Path) -> None:
    (tmp_path / "shf.yml").write_text("services: {}\n")
    done = CliRunner().invoke(main, ["replay", "--config", str(tmp_path / "shf.yml")])
    assert done.exit_code == 2
    assert "add some under `services`" in done.stderr
