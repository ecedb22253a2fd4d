"""PromQL as a tree: as much of the language as rules use that read recorded series.

Only what is evaluated here is told apart (`shf_queries.evaluation`); what reads raw series alone is sent to
Prometheus as it was written, so each node knows its own text. The grammar and the precedence of operators are
those of Prometheus's documentation (https://prometheus.io/docs/prometheus/latest/querying/operators/).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from shf_queries.errors import QueryError

AGGREGATIONS = frozenset({"sum", "min", "max", "avg", "group", "count", "quantile", "topk", "bottomk"})
_OTHER_AGGREGATIONS = frozenset({"stddev", "stdvar", "count_values", "limitk", "limit_ratio"})
_PRECEDENCE = {
    "or": 1, "and": 2, "unless": 2,
    "==": 3, "!=": 3, "<=": 3, "<": 3, ">=": 3, ">": 3,
    "+": 4, "-": 4, "*": 5, "/": 5, "%": 5, "atan2": 5, "^": 6,
}  # fmt: skip
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_536_000.0}
_DURATION = re.compile(r"(\d+)(ms|[smhdwy])")
_LEXEME = re.compile(
    r"""(?P<space>(?:\s+|\#[^\n]*)+)"""
    r"""|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)"""
    r"""|(?P<duration>(?:\d+(?:ms|[smhdwy]))+(?![\w.]))"""
    r"""|(?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"""
    r"""|(?P<name>[a-zA-Z_:][\w:]*)"""
    r"""|(?P<sign>=~|!~|!=|==|<=|>=|.)""",
    re.DOTALL,
)


class NotReplayable(QueryError):
    """The rule cannot be evaluated over history here: change it, or leave it out."""


@dataclass(frozen=True)
class Matcher:
    """One condition on a label; `operator` is =, !=, =~ or !~."""

    label: str
    operator: str
    value: str

    def matches(self, value: str) -> bool:
        """Whether a label with this value passes. Raises NotReplayable for what Python reads differently."""
        if self.operator in ("=", "!="):
            return (value == self.value) is (self.operator == "=")
        try:
            return (re.fullmatch(self.value, value) is not None) is (self.operator == "=~")
        except re.error as error:
            raise NotReplayable(f"the regular expression {self.value!r} cannot be read: {error}") from error


@dataclass(frozen=True)
class Node:
    """Part of a query; `text` as it was written."""

    text: str = field(default="", compare=False, kw_only=True)


@dataclass(frozen=True)
class Number(Node):
    """A scalar."""

    value: float


@dataclass(frozen=True)
class Text(Node):
    """A string, without its quotes."""

    value: str


@dataclass(frozen=True)
class Selector(Node):
    """`name{matchers}[window] offset`, both in seconds. `name` is None where it stands in a matcher."""

    name: str | None
    matchers: tuple[Matcher, ...] = ()
    window: float | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class Call(Node):
    """A function."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Aggregation(Node):
    """`operation by (labels) (argument)`; with `without`, by all other labels."""

    operation: str
    argument: Node
    labels: frozenset[str] = frozenset()
    without: bool = False
    parameter: Node | None = None


@dataclass(frozen=True)
class Matching:
    """How the elements of two vectors find each other; `many`: the side with several, `left` or `right`."""

    labels: frozenset[str] = frozenset()
    on: bool = False
    many: str = ""
    include: tuple[str, ...] = ()


@dataclass(frozen=True)
class Binary(Node):
    """Two operands."""

    operator: str
    left: Node
    right: Node
    as_number: bool = False  # `bool`
    matching: Matching = Matching()


@dataclass(frozen=True)
class Opaque(Node):
    """What is not read any further, such as a subquery; `inner` are its parts."""

    inner: tuple[Node, ...]


def parse(query: str) -> Node:
    """Read a query. Raises NotReplayable for what is no PromQL, or more of it than is read here."""
    return _Parser(query).whole()


def selectors(node: Node) -> Iterator[Selector]:
    """All selectors of a query."""
    if isinstance(node, Selector):
        yield node
    for each in children(node):
        yield from selectors(each)


def children(node: Node) -> tuple[Node, ...]:
    """The parts of a node."""
    if isinstance(node, Call):
        return node.arguments
    if isinstance(node, Aggregation):
        return (node.argument,) if node.parameter is None else (node.parameter, node.argument)
    if isinstance(node, Binary):
        return (node.left, node.right)
    return node.inner if isinstance(node, Opaque) else ()


def seconds_of(duration: str) -> float:
    """Seconds of a duration as PromQL writes it."""
    return sum(int(count) * _SECONDS[unit] for count, unit in _DURATION.findall(duration))


@dataclass(frozen=True)
class _Lexeme:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    def __init__(self, query: str) -> None:
        self._query = query
        self._lexemes = [
            _Lexeme(str(match.lastgroup), match.group(), *match.span())
            for match in _LEXEME.finditer(query)
            if match.lastgroup != "space"
        ]
        self._at = 0

    def whole(self) -> Node:
        node = self._expression(0)
        if self._at < len(self._lexemes):
            raise self._error()
        return node

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._lexemes[at].text if at < len(self._lexemes) else ""

    def _next(self) -> _Lexeme:
        if self._at >= len(self._lexemes):
            raise NotReplayable(f"{self._query!r} ends too early")
        self._at += 1
        return self._lexemes[self._at - 1]

    def _expect(self, text: str) -> None:
        if self._peek() != text:
            raise self._error()
        self._at += 1

    def _error(self) -> NotReplayable:
        at = self._lexemes[self._at].start if self._at < len(self._lexemes) else len(self._query)
        return NotReplayable(f"cannot read {self._query[at : at + 40]!r}")

    def _written(self, node: Node, first: int) -> Node:
        return replace(node, text=self._query[self._lexemes[first].start : self._lexemes[self._at - 1].end])

    def _expression(self, least: int) -> Node:
        first = self._at
        left = self._unary()
        while (precedence := _PRECEDENCE.get(self._peek(), 0)) > least:
            operator = self._next().text
            as_number = self._peek() == "bool"
            self._at += as_number
            matching = self._matching()
            right = self._expression(precedence - 1 if operator == "^" else precedence)
            left = self._written(Binary(operator, left, right, as_number, matching), first)
        return left

    def _unary(self) -> Node:
        first = self._at
        if self._peek() in ("-", "+"):
            sign = self._next().text
            operand = self._expression(_PRECEDENCE["^"] - 1)
            factor = Number(-1.0 if sign == "-" else 1.0)
            return self._written(Binary("*", factor, operand), first)
        return self._suffixed(self._primary(), first)

    def _primary(self) -> Node:
        first, lexeme = self._at, self._next()
        if lexeme.text == "(":
            inner = self._expression(0)
            self._expect(")")
            return self._written(inner, first)
        if lexeme.kind == "number":
            number = float(int(lexeme.text, 16)) if lexeme.text[:2] in ("0x", "0X") else float(lexeme.text)
            return self._written(Number(number), first)
        if lexeme.kind == "text":
            return self._written(Text(_unquoted(lexeme.text)), first)
        if lexeme.text == "{":
            self._at = first
            return self._selector(None, first)
        if lexeme.kind != "name":
            self._at = first
            raise self._error()
        name = lexeme.text
        if name.lower() in ("inf", "nan"):
            return self._written(Number(float(name)), first)
        if name in AGGREGATIONS | _OTHER_AGGREGATIONS and self._peek() in ("(", "by", "without"):
            return self._aggregation(name, first)
        if self._peek() == "(":
            return self._written(Call(name, tuple(self._arguments())), first)
        return self._selector(name, first)

    def _arguments(self) -> Iterator[Node]:
        self._expect("(")
        while self._peek() != ")":
            yield self._expression(0)
            if self._peek() == ",":
                self._at += 1
        self._expect(")")

    def _aggregation(self, operation: str, first: int) -> Node:
        labels, without = frozenset[str](), False
        grouped = self._peek() in ("by", "without")
        if grouped:
            without = self._next().text == "without"
            labels = frozenset(self._labels())
        arguments = tuple(self._arguments())
        if not grouped and self._peek() in ("by", "without"):
            without = self._next().text == "without"
            labels = frozenset(self._labels())
        if operation in _OTHER_AGGREGATIONS or not 1 <= len(arguments) <= 2:
            return self._written(Opaque(arguments), first)
        parameter = arguments[0] if len(arguments) == 2 else None
        return self._written(Aggregation(operation, arguments[-1], labels, without, parameter), first)

    def _labels(self) -> list[str]:
        self._expect("(")
        found = []
        while self._peek() != ")":
            lexeme = self._next()
            if lexeme.kind == "name":
                found.append(lexeme.text)
        self._expect(")")
        return found

    def _matching(self) -> Matching:
        if self._peek() not in ("on", "ignoring"):
            return Matching()
        on = self._next().text == "on"
        labels = frozenset(self._labels())
        if self._peek() not in ("group_left", "group_right"):
            return Matching(labels, on)
        many = "left" if self._next().text == "group_left" else "right"
        include = tuple(self._labels()) if self._peek() == "(" else ()
        return Matching(labels, on, many, include)

    def _selector(self, name: str | None, first: int) -> Node:
        matchers = self._matchers() if self._peek() == "{" else ()
        return self._written(Selector(name, matchers), first)

    def _matchers(self) -> tuple[Matcher, ...]:
        self._expect("{")
        found = []
        while self._peek() != "}":
            label, operator, value = self._next(), self._next(), self._next()
            if value.kind != "text" or operator.text not in ("=", "!=", "=~", "!~"):
                self._at -= 3
                raise self._error()
            found.append(Matcher(label.text, operator.text, _unquoted(value.text)))
            if self._peek() == ",":
                self._at += 1
        self._expect("}")
        return tuple(found)

    def _suffixed(self, node: Node, first: int) -> Node:
        """A window, a subquery's range, an offset, an `@`."""
        while self._peek() in ("[", "offset", "@"):
            sign = self._next().text
            if sign == "[":
                node = self._windowed(node, first)
            elif sign == "offset" and isinstance(node, Selector):
                back = self._peek() == "-"
                self._at += back
                seconds = seconds_of(self._next().text)
                node = self._written(replace(node, offset=-seconds if back else seconds), first)
            else:
                self._at += self._peek() == "-"
                self._next()
                if self._peek() == "(":
                    list(self._arguments())
                node = self._written(Opaque((node,)), first)
        return node

    def _windowed(self, node: Node, first: int) -> Node:
        duration = self._next().text
        if self._peek() == "]" and isinstance(node, Selector):
            self._at += 1
            return self._written(replace(node, window=seconds_of(duration)), first)
        while self._next().text != "]":
            pass
        return self._written(Opaque((node,)), first)


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text[1:-1], flags=re.DOTALL)
