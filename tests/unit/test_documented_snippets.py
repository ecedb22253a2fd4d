"""Every fenced block of the documentation is what it says it is: valid YAML of a known kind, shell, Python.

What reads a snippet judges it: the settings' own models, promtool, amtool, bash, click. A failure names the
page and the line; most are mended by writing the snippet so that a reader can paste it as it stands.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from documented import (
    PAGES,
    ROOT,
    SHELLS,
    Block,
    Command,
    blocks_of,
    commands_in,
    fenceless,
    page_name,
    spans_of,
    syntax_error,
)
from self_healing_fabric.cli import main
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.settings import Settings

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [command for block in BLOCKS for command in commands_in(block)]
SPANS = [(page, line, text) for page in PAGES for line, text in spans_of(page) if text.startswith("shf ")]

PROMETHEUS = {"scrape_configs", "rule_files", "alerting", "remote_write", "storage", "scrape_config_files"}
ALERTMANAGER = {"route", "receivers", "inhibit_rules", "time_intervals", "templates"}
OTHERS_FORMATS = (
    "datasources",
    "providers",
    "modules",
    "exporters",
)  # Grafana, blackbox exporter, collectors

PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*(\.\.\.)?|\.\.\.")


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"NOT TESTED: {name} is not on PATH")
    return found


def _judge(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in BLOCKS])
def test_block(block: Block, tmp_path: Path) -> None:
    """A fenced block names a language, and what reads that accepts it; `text` is what nobody pastes."""
    assert block.language in READERS, (
        f"{block}: name the block's language, one of {', '.join(READERS)}; `console` for commands behind `$ `"
    )
    READERS[block.language](block, tmp_path)


@pytest.mark.parametrize("page", [pytest.param(page, id=page_name(page)) for page in PAGES])
def test_commands_are_fenced(page: Path) -> None:
    """No command hides in a block that is only indented, where nothing would run it."""
    text = fenceless(page)
    hidden = re.findall(r"^(?: {4,}|\t)(?:\$ |shf |curl |kubectl |docker |make ).*$", text, re.M)
    assert not hidden, (
        f"{page_name(page)}: put this into a block ```console, behind `$ `: {hidden[0].strip()}"
    )


def _shell(block: Block, _: Path) -> None:
    """Its commands are judged one by one, below."""
    assert block.title or commands_in(block), (
        f"{block}: no line begins with `$ `, so nothing in it is a command"
    )


def _yaml(block: Block, folder: Path) -> None:
    documents = [each for each in yaml.safe_load_all(block.text) if each is not None]
    assert documents, f"{block}: empty"
    for content in documents:
        _check_document(block, content, folder)


def _check_document(block: Block, content: Any, folder: Path) -> None:
    if not isinstance(content, Mapping):
        assert block.title, f"{block}: begin with the key under which this belongs, or give the block a title"
        return
    keys = set(content)
    if {"apiVersion", "kind"} <= keys:
        assert content["kind"] == "Kustomization" or content["metadata"].get("name"), f"{block}: has no name"
    elif "groups" in keys:
        path = folder / "part.rules.yml"
        path.write_text(block.text)
        _judge(_tool("promtool"), "check", "rules", str(path))
    elif keys & ALERTMANAGER:
        _check_alertmanager(dict(content), folder)
    elif keys & PROMETHEUS:
        path = folder / "prometheus.yml"
        path.write_text(block.text)
        _judge(_tool("promtool"), "check", "config", "--syntax-only", str(path))
    elif _is_compose(content) or keys & set(OTHERS_FORMATS):
        pass  # whoever reads them is no part of this project; that they are YAML was just seen
    elif keys <= set(Settings.model_fields):
        path = folder / "shf.yaml"
        path.write_text(yaml.safe_dump(_with_secrets(content, folder)))
        load_settings(path)
    else:
        pytest.fail(
            f"{block}: nothing known reads {', '.join(sorted(keys))}. A part of shf.yaml begins at"
            " its top level (`services:`, ...); teach this test the readers of other formats."
        )


def _with_secrets(content: Any, folder: Path) -> Any:
    """The same with every secret's file in a folder of the test's own: a reader has written his."""
    if isinstance(content, list):
        return [_with_secrets(each, folder) for each in content]
    if not isinstance(content, Mapping):
        return content
    found = {key: _with_secrets(value, folder) for key, value in content.items()}
    for key, value in found.items():
        if key.endswith("_file") and isinstance(value, str):
            secret = folder / Path(value).name
            secret.write_text(f"secret of {value}")
            found[key] = str(secret)
    return found


def _is_compose(content: Mapping[str, Any]) -> bool:
    services = content.get("services")
    if not isinstance(services, Mapping):
        return False
    return any(isinstance(each, Mapping) and {"image", "build"} & set(each) for each in services.values())


def _check_alertmanager(content: dict[str, Any], folder: Path) -> None:
    """With what a part leaves out: a root receiver, and receivers that only its routes name."""
    route = {"receiver": "people", **content.get("route", {})}
    receivers = list(content.get("receivers", []))
    named = set(re.findall(r"receiver: (\S+)", yaml.safe_dump(route)))
    receivers += [{"name": name} for name in sorted(named - {each["name"] for each in receivers})]
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump({**content, "route": route, "receivers": receivers}))
    _judge(_tool("amtool"), "check-config", str(path))


def _promql(block: Block, folder: Path) -> None:
    """A line that is not indented begins another expression, unless it closes a bracket."""
    expressions = re.split(r"\n+(?=[^\s)}\]])", block.text.strip())
    rules = [
        {"record": "documented:expression", "labels": {"n": str(number)}, "expr": expression}
        for number, expression in enumerate(expressions)
    ]
    path = folder / "part.rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "documented", "rules": rules}]}))
    _judge(_tool("promtool"), "check", "rules", str(path))


def _json(block: Block, _: Path) -> None:
    json.loads(block.text)


def _toml(block: Block, _: Path) -> None:
    tomllib.loads(block.text)


def _python(block: Block, _: Path) -> None:
    """It compiles, and what it imports from this project is there."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("self_healing_fabric", "shf_")
        ):
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{block}: {node.module} has no {', '.join(missing)}"


def _for_people(_: Block, __: Path) -> None:
    """Nothing reads it."""


READERS: dict[str, Callable[[Block, Path], None]] = {
    **dict.fromkeys(SHELLS, _shell),
    "yaml": _yaml,
    "promql": _promql,
    "json": _json,
    "toml": _toml,
    "python": _python,
    **dict.fromkeys(("text", "diff", "sql", "http", "ini", "dockerfile", "nginx"), _for_people),
}


@pytest.mark.parametrize("command", [pytest.param(each, id=str(each)[:80]) for each in COMMANDS])
def test_command(command: Command) -> None:
    """Its syntax is right, and every `shf` in it is a command with these options."""
    assert (error := syntax_error(command.text)) is None, f"{command}: {error}"
    assert not re.search(r"<[a-z][\w -]*>", command.text), (
        f"{command}: write placeholders as NAME, not <name>"
    )
    for words in _calls_of_shf(command.text):
        _check_call(str(command), words)
    for goal in re.findall(r"(?:^|[;&|]\s*)make\b([^;&|#]*)", command.text):
        _judge("make", "--dry-run", "-C", str(ROOT), *shlex.split(goal))


@pytest.mark.parametrize("span", [pytest.param(each, id=f"{each[0].name}:{each[1]}") for each in SPANS])
def test_command_in_the_text(span: tuple[Path, int, str]) -> None:
    """A `shf ...` in running text exists with its options; `a|b` are alternatives, `[a]` may be left out."""
    page, line, text = span
    simple = re.sub(r"\\?\|\w+", "", text.replace("[", "").replace("]", ""))  # in a table | is \|
    for words in _calls_of_shf(simple):
        _check_call(f"{page.name}:{line}: {text}", words, whole=False)


_CALL = re.compile(
    r"(?:^|[;&|(!]\s*|\b(?:do|until|while|if|then)\s+)shf\s((?:'[^']*'|\"[^\"]*\"|[^;&|<>\n#)'\"])*)", re.M
)


def _calls_of_shf(text: str) -> list[list[str]]:
    """The arguments of each call of shf in a command line."""
    return [shlex.split(match[1]) for match in _CALL.finditer(text.replace("\\\n", " "))]


def _check_call(where: str, words: list[str], *, whole: bool = True) -> None:
    """Parse the words as click does and run nothing. Placeholders and missing files are no mistakes."""
    command: click.Command = main
    context = click.Context(main, info_name="shf", **main.context_settings)
    rest = list(words)
    while isinstance(command, click.Group):
        if not rest or rest[0].startswith("-") or PLACEHOLDER.fullmatch(rest[0]):
            return
        found = command.get_command(context, rest[0])
        assert found is not None, f"{where}: shf has no command {rest[0]}"
        context = click.Context(found, info_name=rest.pop(0), parent=context)
        command = found
    if {"--help", "-h"} & set(rest):
        return
    try:
        options, _, _ = command.make_parser(context).parse_args(rest)
        for parameter in command.params:
            given = options.get(parameter.name or "")
            values = given if isinstance(given, tuple | list) else [given]
            if isinstance(parameter.type, click.Choice):
                for value in values:
                    if isinstance(value, str) and not PLACEHOLDER.fullmatch(value):
                        parameter.type.convert(value, parameter, context)
            if whole and parameter.required and isinstance(parameter, click.Argument):
                assert given, f"{where}: {parameter.human_readable_name} is missing"
    except click.UsageError as error:
        pytest.fail(f"{where}: {error.format_message()}")
