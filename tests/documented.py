"""What the documentation shows, block by block, so that tests can do what a reader would do.

A page is a story: its fenced blocks are read in order. A `console` block shows commands behind `$ ` and,
below each, what it prints; `sh` and `bash` blocks hold commands only. A block with `title="NAME"` is a file
that the reader writes under that name.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "alert_rules/**/*.md", "grafana/**/*.md", "deploy/**/*.md")
    for page in ROOT.glob(pattern)
)
SHELLS = ("console", "sh", "bash")

_FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<ticks>`{3,})(?P<language>[\w+-]*)(?P<rest>[^\n`]*)\n"
    r"(?P<text>.*?)^(?P=indent)(?P=ticks)[ ]*$",
    re.M | re.S,
)
_TITLE = re.compile(r'title="([^"]+)"')
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: relative to the repository.
        line: where the fence opens, from 1.
        title: the name of the file that it is, or None.
    """

    page: str
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command as a reader pastes it; may have several lines. `shown` is what the page prints below it."""

    page: str
    line: int
    text: str
    shown: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: $ {self.text}"


def page_name(page: Path) -> str:
    """The page's path as tests and messages name it."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        title = _TITLE.search(match["rest"])
        line = text.count("\n", 0, match.start()) + 1
        content = dedent(match["text"])
        found.append(Block(page_name(page), line, match["language"], title and title[1], content))
    return found


def commands_in(block: Block) -> list[Command]:
    """The commands of a block, whole ones: continued lines and here-documents belong to the first line."""
    if block.language not in SHELLS or block.title:
        return []
    prompted = block.language == "console"
    found: list[Command] = []
    lines = iter(enumerate(block.text.splitlines(), block.line + 1))
    for number, line in lines:
        if prompted and not line.startswith("$ "):
            if found:
                found[-1] = Command(block.page, found[-1].line, found[-1].text, found[-1].shown + line + "\n")
            continue
        text = line.removeprefix("$ ") if prompted else line
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        while not _complete(text):
            following = next(lines, None)
            if following is None:
                break  # the syntax check of the tests tells
            text += "\n" + (following[1].removeprefix("> ") if prompted else following[1])
        found.append(Command(block.page, number, text))
    return found


def fenceless(page: Path) -> str:
    """The page without its fenced blocks, with its lines where they were."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))


def spans_of(page: Path) -> Iterator[tuple[int, str]]:
    """The code spans of the running text, with their lines."""
    prose = fenceless(page)
    for match in _SPAN.finditer(prose):
        yield prose.count("\n", 0, match.start()) + 1, match[1]


def syntax_error(command: str) -> str | None:
    """What bash has against the syntax of a command, or None."""
    checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
    return (checked.stderr.strip() or None) if checked.returncode or checked.stderr else None


def _complete(text: str) -> bool:
    if text.rstrip("\n").endswith("\\"):
        return False
    return not any(mark in text for mark in ("<<", "'", '"', "{", "(", "do", "then")) or not syntax_error(
        text
    )
