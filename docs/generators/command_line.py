"""The page of the `shf` command, from its own declarations."""

from __future__ import annotations

from collections.abc import Iterator

import click

from self_healing_fabric.cli import main

HEAD = """\
# Command line

`shf COMMAND --help` shows the same. Exit status: 0 well, 1 failed, 2 wrong usage or configuration; never a traceback. Commands that ask
a running fabric find it by `--url`, else by `listen` of the configuration.

The shell completes commands and options with `eval "$(_SHF_COMPLETE=bash_source shf)"` in `~/.bashrc`, with `zsh_source` in `~/.zshrc`;
in fish: `_SHF_COMPLETE=fish_source shf | source`.

This page is generated from the code (`docs/generate_reference.py`).
"""


def page() -> str:
    """The whole page."""
    root = click.Context(main, info_name="shf", **main.context_settings)
    return HEAD + "".join(_section(command, context) for command, context in _commands(main, root))


def _commands(group: click.Group, parent: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        if command is None or command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=parent)
        if isinstance(command, click.Group):
            yield from _commands(command, context)
        else:
            yield command, context


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    lines = [f"\n## {context.command_path}\n", f"`{usage}`\n", text]
    options = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts
        if (record := parameter.get_help_record(context)) is not None
    ]
    if options:
        lines += ["", "| option | |", "|---|---|"]
        lines += [f"| `{_cell(names)}` | {_cell(meaning)} |" for names, meaning in options]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
