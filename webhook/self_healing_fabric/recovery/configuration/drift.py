"""Does the running configuration differ from the wanted one, and where? Pure comparison, no network.

YAML and JSON are compared by what they mean: another order of keys, a comment or other quotes are no drift,
and whoever restarts a service for those has made the trouble that he was to mend. Text has no meaning that we
know, so there every byte counts.

An error of a parser quotes the line that it stumbled over, which may be the password. Only its place is told.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from self_healing_fabric.errors import ShfError
from self_healing_fabric.recovery.configuration.masking import MASK, Masker, without

MOST_LINES = 200  # of a diff; a person reads no more, and the rest is counted
MOST_NODES = 100_000  # of a document: aliases make exponentially many out of a few lines
MOST_DEPTH = 100
MOST_ALIGNED = 2000  # lines; to align more of them may take minutes
LONGEST_VALUE = 200  # characters of a value that are shown
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_/-]+")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where it was built
_MISSING = object()


class Unparsable(ShfError):
    """A configuration that is not of its format; says where, and quotes nothing."""


@dataclass(frozen=True)
class Drift:
    """In how many places the configurations differ, and the lines that show it: `-` runs, `+` is wanted.

    `notes` is what is no drift and yet worth knowing, such as fields that others manage.
    """

    places: int = 0
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __bool__(self) -> bool:
        return self.places > 0


def compare(live: bytes | None, wanted: bytes, form: str, masker: Masker) -> Drift:
    """Compare two configurations of a format: `yaml`, `json` or `text`; `live` is None when there is none.

    A running configuration that cannot be parsed differs as text. Raises Unparsable when the wanted one
    cannot: then nobody knows what is wanted.
    """
    if form == "text":
        return _compare_text(live, wanted, masker)
    document = parse(wanted, form)
    if live is None:
        return _compare_text(None, wanted, masker)
    try:
        running = parse(live, form)
    except Unparsable as error:
        drift = _compare_text(live, wanted, masker)
        return Drift(max(drift.places, 1), (f"! the running one is not {form}: {error}", *drift.lines))
    return compare_documents(running, document, masker)


def says_nothing(content: bytes, form: str) -> bool:
    """Whether there is nothing in it but blanks and comments. Raises Unparsable."""
    return not content.strip() if form == "text" else parse(content, form) is None


def compare_documents(
    live: Any, wanted: Any, masker: Masker, *, hidden: Sequence[str] = (), notes: Sequence[str] = ()
) -> Drift:
    """Compare two documents by what they mean; what stands under the top keys `hidden` is secret."""
    walk = _Walk(masker, hidden)
    secrets = set[str]()
    for document in (live, wanted):
        secrets |= masker.secrets_in(document)
        if isinstance(document, Mapping):
            for key in hidden:
                secrets |= masker.secrets_in(document.get(key), hidden=True)
    walk.secrets = secrets
    found = list(walk.differences("", live, wanted, False))
    lines = [line for difference in found for line in difference]
    return Drift(len(found), _cut(lines), tuple(notes))


def parse(content: bytes, form: str) -> Any:
    """The document of a `yaml` or `json` text. Raises Unparsable."""
    try:
        if form == "json":
            document = json.loads(content)
        else:
            documents = list(yaml.load_all(content, Loader=_LOADER))
            document = documents[0] if len(documents) == 1 else documents or None
        _check_size(document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Unparsable(f"it is no valid YAML{place}") from None
    except json.JSONDecodeError as error:
        raise Unparsable(f"it is no valid JSON at line {error.lineno}, column {error.colno}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, _TooLarge) else f"it is no valid {form.upper()}"
        raise Unparsable(reason) from None
    return document


class _TooLarge(ValueError):
    """A document that would take too long to walk."""


def _check_size(document: Any) -> None:
    left, stack = MOST_NODES, [(document, 0)]
    while stack:
        node, depth = stack.pop()
        left -= 1
        if left < 0 or depth > MOST_DEPTH:
            raise _TooLarge("it is too large or too deep to be compared")
        if isinstance(node, Mapping):
            stack += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list | tuple | set):
            stack += [(value, depth + 1) for value in node]


class _Walk:
    """Finds the differences of two documents; each is the lines that show it."""

    def __init__(self, masker: Masker, hidden: Sequence[str]) -> None:
        self._masker = masker
        self._hidden = hidden
        self.secrets: set[str] = set()
        self._told = 0  # lines; beyond those that are shown they are only counted, which takes no masking

    def differences(self, path: str, live: Any, wanted: Any, secret: bool) -> Iterator[list[str]]:
        """The differences below a path. Where it is secret, only that there is one."""
        if secret:
            if not _same(live, wanted):
                yield self._lines(path, live, wanted, lambda _: MASK, note=" (another value)")
        elif isinstance(live, Mapping) and isinstance(wanted, Mapping):
            yield from self._of_mappings(path, live, wanted)
        elif isinstance(live, list) and isinstance(wanted, list):
            yield from self._of_lists(path, live, wanted)
        elif not _same(live, wanted):
            yield from self._of_leaves(path, live, wanted)

    def _of_mappings(
        self, path: str, live: Mapping[Any, Any], wanted: Mapping[Any, Any]
    ) -> Iterator[list[str]]:
        for key in dict.fromkeys((*live, *wanted)):
            secret = self._masker.is_secret(key) or any(
                self._masker.is_named(each, key) for each in (live, wanted)
            )
            secret = secret or (not path and key in self._hidden)
            below = f"{path}.{_quoted_key(key)}" if path else _quoted_key(key)
            yield from self.differences(below, live.get(key, _MISSING), wanted.get(key, _MISSING), secret)

    def _of_lists(self, path: str, live: list[Any], wanted: list[Any]) -> Iterator[list[str]]:
        names, others = _names(live), _names(wanted)
        if names is not None and others is not None:
            for name in dict.fromkeys((*names, *others)):
                below = f"{path}[name={_quoted_key(name)}]"
                yield from self.differences(
                    below, names.get(name, _MISSING), others.get(name, _MISSING), False
                )
            if list(names) != list(others) and set(names) == set(others):
                yield self._lines(path, list(names), list(others), self._shown, note=" (the order)")
            return
        for number in range(max(len(live), len(wanted))):
            flags = [each[number - 1] for each in (live, wanted) if 0 < number <= len(each)]
            yield from self.differences(
                f"{path}[{number}]",
                live[number] if number < len(live) else _MISSING,
                wanted[number] if number < len(wanted) else _MISSING,
                any(self._masker.is_flag(flag) for flag in flags),
            )

    def _of_leaves(self, path: str, live: Any, wanted: Any) -> Iterator[list[str]]:
        if isinstance(live, str) and isinstance(wanted, str) and ("\n" in live or "\n" in wanted):
            title = without(self.secrets, path)
            for lines in _text_differences(live, wanted, self._masker, self.secrets):
                yield [f"@ {title}", *lines]
        elif _is_filled(live) or _is_filled(wanted):
            # A whole branch on one side only: each of its leaves is told, with its own path.
            yield from self._of_branch(path, live, "-")
            yield from self._of_branch(path, wanted, "+")
        else:
            yield self._lines(path, live, wanted, self._shown)

    def _of_branch(self, path: str, value: Any, sign: str) -> Iterator[list[str]]:
        if isinstance(value, Mapping) and value:
            yield from self._of_mappings(path, *((value, {}) if sign == "-" else ({}, value)))
        elif isinstance(value, list) and value:
            yield from self._of_lists(path, *((value, []) if sign == "-" else ([], value)))
        elif value is not _MISSING:
            live, wanted = (value, _MISSING) if sign == "-" else (_MISSING, value)
            yield self._lines(path, live, wanted, self._shown)

    def _shown(self, value: Any) -> str:
        text = without(self.secrets, self._masker.line(value)) if isinstance(value, str) else value
        told = json.dumps(text, ensure_ascii=False, default=str)
        told = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in told)
        told = without(self.secrets, told)
        return told if len(told) <= LONGEST_VALUE else f"{told[: LONGEST_VALUE - 3]}..."

    def _lines(
        self, path: str, live: Any, wanted: Any, shown: Callable[[Any], str], note: str = ""
    ) -> list[str]:
        self._told += 1
        if self._told > MOST_LINES:
            return ["..."] * (2 if live is not _MISSING and wanted is not _MISSING else 1)
        title = without(self.secrets, path or ".")
        lines = [] if live is _MISSING else [f"- {title}: {shown(live)}"]
        if wanted is not _MISSING:
            lines.append(f"+ {title}: {shown(wanted)}{note if lines else ''}")
        return lines


def _is_filled(value: Any) -> bool:
    return isinstance(value, Mapping | list) and bool(value)


def _same(live: Any, wanted: Any) -> bool:
    """Equal by meaning; `true` is not 1, and a value that is no number equals itself."""
    if isinstance(live, bool) is not isinstance(wanted, bool):
        return False
    if isinstance(live, Mapping) and isinstance(wanted, Mapping):
        return live.keys() == wanted.keys() and all(_same(live[key], wanted[key]) for key in live)
    if isinstance(live, list | tuple) and isinstance(wanted, list | tuple):
        return len(live) == len(wanted) and all(map(_same, live, wanted))
    return bool(live == wanted) or (live != live and wanted != wanted)


def _names(items: list[Any]) -> dict[str, Any] | None:
    """The items by their names, where all have different ones: containers, ports, variables."""
    named = {item.get("name"): item for item in items if isinstance(item, Mapping)}
    complete = len(named) == len(items) and all(isinstance(name, str) for name in named)
    return {str(name): item for name, item in named.items()} if complete else None


def _quoted_key(key: Any) -> str:
    text = str(key)
    return text if _PLAIN_KEY.fullmatch(text) else json.dumps(text)


def _compare_text(live: bytes | None, wanted: bytes, masker: Masker) -> Drift:
    if live == wanted:
        return Drift()
    texts = (live or b"").decode("utf-8", "replace"), wanted.decode("utf-8", "replace")
    secrets = masker.secrets_in_text(texts[0]) | masker.secrets_in_text(texts[1])
    found = list(_text_differences(*texts, masker, secrets))
    lines = [line for difference in found for line in difference]
    if live is None:
        lines.insert(0, "! there is none yet")
    if not found:
        lines.append("! only line ends, or bytes that are no text, differ")
    return Drift(max(len(found), 1), _cut(lines))


def _text_differences(live: str, wanted: str, masker: Masker, secrets: set[str]) -> Iterator[list[str]]:
    running, desired = live.splitlines(), wanted.splitlines()
    shown, shown_wanted = masker.lines(live), masker.lines(wanted)
    left = MOST_LINES
    for first, end, other, other_end in _changed(running, desired):
        both = [("-", line) for line in shown[first:end]] + [
            ("+", line) for line in shown_wanted[other:other_end]
        ]
        # What is beyond the end of the diff is only counted: masking takes time for each line.
        lines = [f"{sign} {_printable(without(secrets, line))}" for sign, line in both[:left]]
        left -= len(lines)
        yield [f"@ line {first + 1}", *lines, *("..." for _ in both[len(lines) :])]


def _changed(live: list[str], wanted: list[str]) -> Iterator[tuple[int, int, int, int]]:
    """Which lines were replaced by which. Of very many all between the first and the last difference."""
    start = 0
    while start < min(len(live), len(wanted)) and live[start] == wanted[start]:
        start += 1
    end = 0
    while end < min(len(live), len(wanted)) - start and live[-1 - end] == wanted[-1 - end]:
        end += 1
    ours, theirs = live[start : len(live) - end], wanted[start : len(wanted) - end]
    if max(len(ours), len(theirs)) > MOST_ALIGNED:
        yield start, start + len(ours), start, start + len(theirs)
        return
    matcher = difflib.SequenceMatcher(a=ours, b=theirs, autojunk=len(ours) > MOST_LINES)
    for tag, first, last, other, other_last in matcher.get_opcodes():
        if tag != "equal":
            yield start + first, start + last, start + other, start + other_last


def _printable(line: str) -> str:
    text = "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in line)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _cut(lines: list[str]) -> tuple[str, ...]:
    if len(lines) <= MOST_LINES:
        return tuple(lines)
    return (*lines[:MOST_LINES], f"... and {len(lines) - MOST_LINES} lines more")
