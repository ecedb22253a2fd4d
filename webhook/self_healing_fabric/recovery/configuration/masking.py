"""Secrets out of what people are shown: a diff of a configuration goes to terminals, logs and tickets.

Configuration and secrets live in one file more often than not, so nothing is shown that could be one. What is
masked is told by the key that it stands under, which over-masks (`keyboard: us`), and that is the side to err
on. A value that was a secret somewhere is masked everywhere: the password of `password:` is also in the URL
three lines below. That two secrets differ is shown, never how, and no digest of them either: a digest of a
short one can be tried out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MASK = "******"
SHORTEST_SECRET = 4  # characters; a shorter one would be found inside of ordinary words
SECRET_KEYS = (
    *("pass", "pwd", "secret", "token", "key", "credential", "auth", "private", "cookie", "dsn", "salt"),
    *("signature", "certificate", "bearer"),
)
_SEPARATOR = re.compile(r"^[\s\"'\]>]*(?:=>|:=|[:=])?\s*")
_WORD = re.compile(r"[\w.-]*")
# The other half of a pair, `"name": "DB_PASSWORD"` and `"value": ...`, on the same line or the one beside it.
_VALUE = re.compile(r"\b(?:value|values|default)\b(?=[\"']?\s*[:=])", re.IGNORECASE)
_LEADING = re.compile(r"[\s\-\"']*")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+(?=@)")
_KNOWN_SHAPES = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_\w{20,}|xox[abeoprs]-\S+|eyJ[\w-]{1,2000}\.[\w-]{1,2000}\.[\w-]+)"
    r"|(?i:\b(?:bearer|basic)\s+\S+)"
)
_PEM_BEGIN, _PEM_END = "-----BEGIN ", "-----END "
_OPENS_MORE = ("", "|", ">", "\\", "[", "{", "(", '"', "'", "|-", ">-", "|+", ">+", '"""', "'''")


class Masker:
    """What is a secret, by the parts of keys that tell; upper and lower case are the same."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        parts = "|".join(re.escape(part) for part in (*SECRET_KEYS, *more) if part)
        self._secret = re.compile(parts, re.IGNORECASE)

    def is_secret(self, key: object) -> bool:
        """Whether what stands under this key must not be shown."""
        return self._secret.search(str(key)) is not None

    def is_flag(self, item: object) -> bool:
        """Whether the next item of a command line is a secret: `--password`, `-token`."""
        return isinstance(item, str) and item.startswith("-") and "=" not in item and self.is_secret(item)

    def lines(self, text: str) -> list[str]:
        """The lines of a text, each without its secrets; as many as `text.splitlines()`."""
        return [shown for shown, _ in self._read(text)]

    def line(self, text: str) -> str:
        """One text without its secrets, on one line."""
        return "\n".join(self.lines(text))

    def secrets_in_text(self, text: str) -> set[str]:
        """What was masked, to be found again elsewhere."""
        found: set[str] = set()
        for _, secret in self._read(text):
            found.update(_tellable(secret))
        for credentials in _CREDENTIALS.findall(text):
            found.update(_tellable(credentials.partition(":")[2]))
        return found

    def secrets_in(self, document: Any, *, hidden: bool = False) -> set[str]:
        """The values of a document that stand under secret keys."""
        found: set[str] = set()
        for value, is_secret in self._leaves(document, hidden):
            if is_secret and not isinstance(value, bool):
                text = str(value)
                found.update(_tellable(text), *(_tellable(line) for line in text.splitlines()))
            elif isinstance(value, str):
                found.update(self.secrets_in_text(value))
        return found

    def _leaves(self, document: Any, hidden: bool) -> Iterator[tuple[Any, bool]]:
        if isinstance(document, Mapping):
            for key, value in document.items():
                yield from self._leaves(value, hidden or self.is_secret(key) or self.is_named(document, key))
        elif isinstance(document, Sequence) and not isinstance(document, str | bytes):
            for before, value in zip((None, *document), document, strict=False):
                yield from self._leaves(value, hidden or self.is_flag(before))
        elif document is not None:
            yield document, hidden

    def is_named(self, mapping: Mapping[Any, Any], key: Any) -> bool:
        """Whether this is the value of a pair that is named a secret: `{name: DB_PASSWORD, value: ...}`."""
        return str(key).lower() in ("value", "values", "default") and any(
            self.is_secret(mapping[name]) for name in ("name", "key", "Name", "Key") if name in mapping
        )

    def _read(self, text: str) -> Iterator[tuple[str, str]]:
        """Each line as it may be shown, and what of it was secret by its key."""
        inside: int | None = None  # the indentation of the secret key above, whose value goes on
        next_too = pem = False
        lines = text.splitlines()
        tells = [self.is_secret(line) for line in lines]
        for number, line in enumerate(lines):
            bare = line.strip()
            indentation = len(line) - len(line.lstrip())
            if pem or _PEM_BEGIN in bare:
                pem = _PEM_END not in bare
                yield f"{line[:indentation]}{MASK}", bare
                continue
            if bare and (next_too or (inside is not None and _is_below(inside, indentation, bare))):
                next_too = bare.endswith("\\")
                yield f"{line[:indentation]}{MASK}", bare.strip("\"' ,;")
                continue
            inside = None if bare else inside
            near = any(tells[max(0, number - 1) : number + 2])
            found = (_VALUE.search(line) if near else None) or self._secret.search(line)
            if found is None:
                yield _without_known_shapes(line), ""
                continue
            first, end = _word_around(line, found.start(), found.end())
            rest = line[end:]
            value = rest[_separated(rest) :]
            secret = value.strip().strip("\"' ,;")
            next_too = value.strip() in _OPENS_MORE[:4] and bool(rest.strip())
            inside = _column(line, first)
            head = _without_known_shapes(line[:end])
            shown = f"{head}{rest[: _separated(rest)]}{MASK}" if value.strip() else line
            yield shown, "" if value.strip() in _OPENS_MORE else secret


def _word_around(line: str, start: int, end: int) -> tuple[int, int]:
    """The whole key: `password_file`, `--api-key`.

    Found by hand, because a pattern that begins with "any letters" takes quadratic time on one long line.
    """
    word = _WORD.match(line, end)
    while start and (line[start - 1].isalnum() or line[start - 1] in "_.-"):
        start -= 1
    return start, word.end() if word else end


def _column(line: str, key: int) -> int:
    """Where the key stands that the lines below belong to; that of an item of a list is behind its dash."""
    leading = _LEADING.match(line)
    end = leading.end() if leading else 0
    return key if key <= end else len(line) - len(line.lstrip())


def _is_below(key: int, indentation: int, bare: str) -> bool:
    """Whether a line belongs to the key above it; YAML need not indent the items of a list."""
    return indentation > key or (indentation == key and (bare == "-" or bare.startswith("- ")))


def _separated(rest: str) -> int:
    found = _SEPARATOR.match(rest)
    return found.end() if found else 0


def _tellable(secret: str) -> set[str]:
    secret = secret.strip()
    return {secret} if len(secret) >= SHORTEST_SECRET else set()


def _without_known_shapes(line: str) -> str:
    return _KNOWN_SHAPES.sub(MASK, _CREDENTIALS.sub(MASK, line))


def without(secrets: Iterable[str], text: str) -> str:
    """The text without any of these values, the longest first."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
