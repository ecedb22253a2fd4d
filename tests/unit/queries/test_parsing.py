"""PromQL as a tree, with the text of each part as it was written."""

from __future__ import annotations

import pytest

from shf_queries.parsing import (
    Aggregation,
    Binary,
    Call,
    Matcher,
    Matching,
    NotReplayable,
    Number,
    Opaque,
    Selector,
    parse,
    selectors,
)


def test_precedence_is_prometheuss() -> None:
    """`^` binds tighter than a sign and to the right, `and` tighter than `or`."""
    a, b, c = Selector("a"), Selector("b"), Selector("c")
    assert parse("a or b and c") == Binary("or", a, Binary("and", b, c))
    assert parse("a - b - c") == Binary("-", Binary("-", a, b), c)
    assert parse("a ^ b ^ c") == Binary("^", a, Binary("^", b, c))
    assert parse("-a ^ b") == Binary("*", Number(-1.0), Binary("^", a, b))
    assert parse("a * (b + c) > 1") == Binary(">", Binary("*", a, Binary("+", b, c)), Number(1.0))


def test_selectors_have_matchers_windows_and_offsets() -> None:
    query = 'rate(a:b:c{x="1\\"2",y!~`d.`, __name__=~"e"}[1h30m] offset 5m) > bool on (x) group_left (z) d'
    assert parse(query) == Binary(
        ">",
        Call(
            "rate",
            (
                Selector(
                    "a:b:c",
                    (Matcher("x", "=", '1"2'), Matcher("y", "!~", "d."), Matcher("__name__", "=~", "e")),
                    5400.0,
                    300.0,
                ),
            ),
        ),
        Selector("d"),
        True,
        Matching(frozenset({"x"}), True, "left", ("z",)),
    )


def test_aggregations_name_their_labels_before_or_after() -> None:
    before, after = parse("sum by (a, b) (c)"), parse("sum(c) by (a, b)")
    assert before == after == Aggregation("sum", Selector("c"), frozenset({"a", "b"}))
    assert parse("quantile without () (0.9, c)") == Aggregation(
        "quantile", Selector("c"), frozenset(), True, Number(0.9)
    )


def test_each_part_knows_its_own_text() -> None:
    """That is what is sent to Prometheus."""
    node = parse('max by (x) (\n rate(a{b="c"}[5m])  # why\n) unless on (x) d')
    assert isinstance(node, Binary)
    assert node.left.text == 'max by (x) (\n rate(a{b="c"}[5m])  # why\n)'
    assert node.right.text == "d"


def test_what_is_not_read_further_still_names_its_selectors() -> None:
    node = parse("max_over_time(rate(a[5m])[1h:1m]) + b @ start() + stddev(c)")
    assert {each.name for each in selectors(node)} == {"a", "b", "c"}
    assert any(isinstance(each, Opaque) for each in (parse("a[1h:1m]"), parse("b @ 1600")))


@pytest.mark.parametrize("query", ["a +", "sum(", "a{b}", "a b", "{", "a[5m", ")"])
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(NotReplayable):
        parse(query)
