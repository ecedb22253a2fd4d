"""Drift: equal meaning is none, every difference has its exact path, and no secret is ever shown."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deadline import within_deadline
from self_healing_fabric.recovery.configuration.drift import (
    Drift,
    Unparsable,
    compare,
    compare_documents,
    parse,
)
from self_healing_fabric.recovery.configuration.masking import MASK, SECRET_KEYS, Masker

MASKER = Masker()


def drift(live: str | None, wanted: str, form: str = "yaml") -> Drift:
    """Compare two texts."""
    return compare(None if live is None else live.encode(), wanted.encode(), form, MASKER)


@pytest.mark.parametrize(
    ("live", "wanted", "form"),
    [
        ("a: 1\nb: {c: [x, y]}\n", "# why\nb:\n  c:\n  - x\n  - 'y'\na: 1", "yaml"),
        ('{"a":1,"b":[true]}', '{ "b": [ true ],\n "a": 1 }', "json"),
        ("a: .nan\n", "{a: .NaN}", "yaml"),
        ("same\n", "same\n", "text"),
        ("---\na: 1\n---\nb: 2\n", "a: 1\n---\nb: 2\n", "yaml"),
    ],
)
def test_the_same_meaning_is_no_drift(live: str, wanted: str, form: str) -> None:
    """Comments, the order of keys, quotes and spaces mean nothing in YAML and JSON."""
    assert drift(live, wanted, form) == Drift()
    assert not drift(live, wanted, form)


@pytest.mark.parametrize(
    ("live", "wanted", "lines"),
    [
        ("pool: {size: 5}", "pool: {size: 20}", ["- pool.size: 5", "+ pool.size: 20"]),
        ("a: 1\nold: yes", "a: 1", ["- old: true"]),
        ("a: 1", "a: 1\nb: {c: x}", ['+ b.c: "x"']),
        ("a: [1, 2]", "a: [1]", ["- a[1]: 2"]),
        ("a: true", "a: 1", ["- a: true", "+ a: 1"]),
        ("a: '1'", "a: 1", ['- a: "1"', "+ a: 1"]),
        ("a:", "a: {}", ["- a: null", "+ a: {}"]),
        ("a: {b: 1}", "a: 2", ["- a.b: 1", "+ a: 2"]),
        ('"x y": 1', '"x y": 2', ['- "x y": 1', '+ "x y": 2']),
        (
            "c: [{name: web, n: 1}, {name: side, n: 1}]",
            "c: [{name: web, n: 2}]",
            [
                *("- c[name=web].n: 1", "+ c[name=web].n: 2"),
                *('- c[name=side].name: "side"', "- c[name=side].n: 1"),
            ],
        ),
        ("a: |\n  one\n  two\n", "a: |\n  one\n  three\n", ["@ a", "@ line 2", "- two", "+ three"]),
    ],
)  # fmt: skip
def test_each_difference_has_its_path(live: str, wanted: str, lines: list[str]) -> None:
    """`-` is what runs, `+` what is wanted; a branch on one side only is told leaf by leaf."""
    found = drift(live, wanted)
    assert list(found.lines) == lines
    assert found.places >= 1


def test_lines_of_text_are_compared_by_their_bytes() -> None:
    """Text has no meaning that we know: a comment counts."""
    found = drift("a\nb\nc\n", "a\nB\nc\n", "text")
    assert found == Drift(1, ("@ line 2", "- b", "+ B"))
    assert drift("a\r\n", "a\n", "text").lines == ("! only line ends, or bytes that are no text, differ",)


def test_that_a_secret_differs_is_shown_and_not_how() -> None:
    """Both sides are masked alike, without a digest, and the change is told."""
    found = drift("db: {password: hunter2}", "db: {password: correct-horse}")
    assert found == Drift(
        1, (f"- db.password: {MASK}", f"+ db.password: {MASK} (another value)")
    )  # fmt: skip


@pytest.mark.parametrize("secret", ["correct-horse", 'quo"ted\\horse', "zwölf-hörse"])
@pytest.mark.parametrize(
    "template",
    [
        "password: {s}\nuser: {n}",
        "db_password = {s} ; n={n}",
        "url: postgres://joe:{s}@db/{n}",
        "url: postgres://joe:p@{s}@db/{n}",
        "Authorization: Bearer {s} {n}",
        "secrets:\n  deep:\n    - {s}\n    - {n}\n",
        "args: --api-key {s} {n}",
        "tls_key: |\n  {s}\n  {n}\nother: {n}",
        '<password>{s}</password><n>{n}</n>',
        "password: {s}\nurl: http://x/?q={s}&n={n}",
        '{\n  "name": "DB_PASSWORD",\n  "value": "{s}"\n}\n{n}',
        '{\n  "value": "{s}",\n  "name": "DB_PASSWORD"\n}\n{n}',
        "env: [{value: {s}, name: API_TOKEN}]\nn: {n}",
        "-----BEGIN RSA PRIVATE KEY-----\n{s}{n}\n-----END RSA PRIVATE KEY-----\n{n}",
    ],
)  # fmt: skip
def test_secrets_in_lines_of_text_are_masked(template: str, secret: str) -> None:
    """By the key before it, by the indentation below it, by its shape, and wherever it is repeated."""
    live, wanted = template.replace("{n}", "1"), template.replace("{n}", "2")
    found = drift(live.replace("{s}", secret), wanted.replace("{s}", f"{secret}-new"), "text")
    assert found
    assert secret not in "\n".join(found.lines)


@pytest.mark.parametrize(
    ("live", "wanted"),
    [
        ({"env": [{"name": "PASS", "value": "canary1"}]}, {"env": [{"name": "PASS", "value": "canary2"}]}),
        ({"args": ["--token", "canary1"]}, {"args": ["--token", "canary2"]}),
        ({"args": ["--token=canary1"]}, {"args": ["--token=canary2"]}),
        ({"app.yaml": "a: 1\npassword: canary1\n"}, {"app.yaml": "a: 2\npassword: canary2\n"}),
        ({"tokens": {"a": {"b": "canary1"}}}, {"tokens": "canary2"}),
        ({"password": "canary1", "x": "is canary1 here"}, {"password": "canary1", "x": "or canary1"}),
        ({"e": [{"name": "PASS", "value": "canary1"}], "x": "canary1"}, {"x": "or canary1"}),
        ({"e": ["--token", "canary1"], "x": "canary1"}, {"x": "or canary1"}),
        ({"password": "canary1", "canary1": 1}, {"password": "canary1", "canary1": 2}),
        ({"password": "line one canary\nline two canary"}, {"password": None, "x": "line two canary"}),
    ],
)  # fmt: skip
def test_secrets_in_documents_are_masked(live: Any, wanted: Any) -> None:
    """Also where a pair of name and value, or a command line, hides that it is one."""
    found = compare_documents(live, wanted, MASKER)
    assert found
    assert "canary" not in "\n".join(found.lines)


@pytest.mark.parametrize(
    ("live", "wanted"),
    [
        ({"password": "Zq"}, {"password": "Zqq"}),
        ({"e": [{"name": "PASS", "value": "Zq"}]}, {"e": [{"name": "PASS", "value": "Zqq"}]}),
        ({"e": ["--token", "Zq"]}, {"e": ["--token", "Zqq"]}),
    ],
)
def test_a_secret_of_a_few_characters_is_masked_where_it_stands(live: Any, wanted: Any) -> None:
    """It is too short to be looked for elsewhere, so its place alone must do."""
    assert "Zq" not in "".join(compare_documents(live, wanted, MASKER).lines)


def test_everything_under_a_hidden_key_is_secret() -> None:
    """The data of a Kubernetes Secret, whatever its keys are called."""
    live, wanted = {"data": {"a": "Y2FuYXJ5MQ==", "b": "Y2F"}}, {"data": {"a": "Y2FuYXJ5Mg==", "b": "Y2G"}}
    assert "Y2" not in "".join(compare_documents(live, wanted, MASKER, hidden=("data",)).lines)


NOTHING_SECRET = st.text(string.ascii_lowercase, min_size=1, max_size=6).filter(
    lambda word: not MASKER.is_secret(word) and word not in ("value", "values", "name", "default")
)
SECRETS = st.text(string.ascii_letters + string.digits + "\"'\\<&: #é\n", max_size=12).map(
    lambda text: f"XQZ{text}ZQX"
)
PLAIN = st.none() | st.booleans() | st.integers() | st.text(string.ascii_lowercase, max_size=8)


def _documents(leaves: Any) -> Any:
    secret_keys = st.builds("{}_{}".format, st.sampled_from(SECRET_KEYS), NOTHING_SECRET)
    return st.recursive(
        PLAIN,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(NOTHING_SECRET, inner, max_size=4)
            | st.builds(
                lambda known, key, secret: {**known, key: secret},
                st.dictionaries(NOTHING_SECRET, inner, max_size=3),
                secret_keys,
                leaves | st.lists(leaves, max_size=3) | st.dictionaries(NOTHING_SECRET, leaves, max_size=3),
            )
        ),
        max_leaves=20,
    )


@given(_documents(SECRETS), _documents(SECRETS))
def test_no_secret_is_ever_in_a_diff_of_documents(live: Any, wanted: Any) -> None:
    """Whatever the documents are: no part of a value under a secret key is shown."""
    found = compare_documents(live, wanted, MASKER)
    assert "XQZ" not in "\n".join(found.lines)
    assert "ZQX" not in "\n".join(found.lines)
    assert bool(found) is (json.dumps(live, sort_keys=True) != json.dumps(wanted, sort_keys=True))


@given(_documents(SECRETS), _documents(SECRETS), st.sampled_from(["yaml", "json"]))
def test_no_secret_is_ever_in_a_diff_of_text(live: Any, wanted: Any, written: str) -> None:
    """The same documents, compared as if they were mere text."""
    if written == "yaml":
        texts = [yaml.safe_dump(each, allow_unicode=True, width=10_000) for each in (live, wanted)]
    else:
        texts = [json.dumps(each, indent=2, ensure_ascii=False) for each in (live, wanted)]
    shown = "\n".join(drift(*texts, "text").lines)
    assert "XQZ" not in shown
    assert "ZQX" not in shown


@given(_documents(PLAIN), st.randoms(use_true_random=False))
def test_another_order_of_keys_is_no_drift(document: Any, chance: Any) -> None:
    """Written as YAML or JSON, in any order and style."""

    def shuffled(node: Any) -> Any:
        if isinstance(node, dict):
            items = [(key, shuffled(value)) for key, value in node.items()]
            chance.shuffle(items)
            return dict(items)
        return [shuffled(each) for each in node] if isinstance(node, list) else node

    flow = yaml.safe_dump(shuffled(document), sort_keys=False, default_flow_style=True)
    assert drift(yaml.safe_dump(document), f"# a comment\n{flow}") == Drift()
    assert drift(json.dumps(document), json.dumps(shuffled(document), indent=3), "json") == Drift()


@pytest.mark.parametrize(
    ("content", "form", "told"),
    [
        (b"a: [canary", "yaml", "no valid YAML at line"),
        (b"password: canary\n\tb: 1", "yaml", "no valid YAML at line 2"),
        (b'a: "\\canary"', "yaml", "no valid YAML"),
        (b"a: *canary", "yaml", "no valid YAML"),
        (b"a: !!python/object:canary {}", "yaml", "no valid YAML"),
        (b'{"a": canary}', "json", "no valid JSON at line 1, column 7"),
        (b"\xff\xfecanary", "json", "no valid JSON"),
        (b"[" * 5000, "json", "JSON"),
        (b"a: &a [*a]", "yaml", "too large or too deep"),
        ("\n".join(["a0: &a0 [1,2]", *(f"a{n}: &a{n} [*a{n-1}, *a{n-1}]" for n in range(1, 40))]).encode(),
         "yaml", "too large or too deep"),
    ],
)  # fmt: skip
def test_what_cannot_be_parsed_is_told_by_its_place(content: bytes, form: str, told: str) -> None:
    """The parsers' own messages quote what they read, which may be the password."""
    with pytest.raises(Unparsable, match=told) as raised:
        parse(content, form)
    assert "canary" not in str(raised.value)


def test_a_running_configuration_that_is_broken_is_drift() -> None:
    """It can be put right; only what is wanted must be sound."""
    found = drift("a: [", "a: 1")
    assert found.places == 1
    assert found.lines[0] == "! the running one is not yaml: it is no valid YAML at line 2, column 1"
    with pytest.raises(Unparsable):
        drift("a: 1", "a: [")


def test_nothing_yet_is_drift() -> None:
    """A key that a ConfigMap lacks."""
    assert drift(None, "a: 1\n").lines == ("! there is none yet", "@ line 1", "+ a: 1")


@pytest.mark.parametrize(
    ("live", "wanted", "form"),
    [
        ("x" * 250_000, "y" * 250_000, "text"),
        ("a: " + "x" * 250_000, "a: " + "y" * 250_000, "yaml"),
        (*("".join(f"{n % period}\n" for n in range(80_000)) for period in (70, 71)), "text"),
        (
            "".join(f"password{n}: {n:08}\n" for n in range(9_000)),
            "".join(f"password{n}: {n + 1:08}\n" for n in range(9_000)),
            "text",
        ),
        (
            "".join(f"p{n}: {{key: s{n:07}, a: 1}}\n" for n in range(8_000)),
            "".join(f"p{n}: {{key: s{n:07}, a: 2}}\n" for n in range(8_000)),
            "yaml",
        ),
        ("eyJ-" * 60_000, "://" * 80_000, "text"),
    ],
    ids=["one line", "one value", "many alike", "many secrets", "many places", "shapes"],
)  # fmt: skip
def test_the_largest_configurations_are_compared_in_seconds(live: str, wanted: str, form: str) -> None:
    """A comparison that hangs would hold a worker, and the watch."""
    assert within_deadline(lambda: drift(live, wanted, form), within=60.0)  # each takes about a second alone


def test_a_diff_cannot_paint_the_terminal_and_has_an_end() -> None:
    """Control characters are shown as escapes; what is too long is counted."""
    found = drift("a: x", 'a: "\\e[31m\\u202e\\n"')
    assert all(line.isprintable() for line in found.lines)
    many = drift("", "\n".join(f"k{n}: {n}" for n in range(500)), "yaml")
    assert len(many.lines) == 201
    assert many.lines[-1] == "... and 301 lines more"
