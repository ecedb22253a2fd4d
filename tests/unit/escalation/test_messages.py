"""Messages: what broke, why, what was tried and what to do next; strangers' text stays harmless."""

from dataclasses import replace
from typing import Any

import pytest

from self_healing_fabric.escalation.calls import Call, Kind
from self_healing_fabric.escalation.messages import MAX_TITLE, Message, compose, links_of, words
from self_healing_fabric.settings import Settings

SETTINGS = Settings(
    external_url="https://shf.example",
    grafana={"url": "https://grafana.example/"},
    services={"cart": {}},
)
CALL = Call(
    "i1/call-1", Kind.ESCALATION, "i1", "cart", 4, "everyone and a human", "human", ("human",), "not healed"
)


def story(**changes: Any) -> dict[str, Any]:
    """An incident as the API tells it, as far as messages look."""
    return {
        "id": "i1", "title": "cart does not answer", "service": "cart", "state": "escalated", "outcome": None,
        "severity": "critical", "failure_class": "service_failure", "pattern": "resource_exhaustion",
        "confidence": 0.82, "diagnosis": {"cause": {"service": "cart"}}, "plan": [],
        "waiting_for": None, "relapses": 0,
        "actions": [{"strategy": "restart", "status": "succeeded", "verdict": "not_healed"}],
        "alerts": [
            {"annotations": {"runbook_url": "https://over.example"}, "service": "cart", "status": "resolved"},
            {
                "annotations": {"runbook_url": "https://run.example/cart"},
                "service": "cart",
                "status": "firing",
            },
        ],
        **changes,
    }  # fmt: skip


def message(call: Call = CALL, **changes: Any) -> Message:
    """The message of one call."""
    return compose("k", [call], {"i1": story(**changes)}, SETTINGS)


def test_a_message_tells_what_a_person_needs() -> None:
    """What, cause with confidence, what was tried, why, what next, and the three links."""
    said = message()
    assert said.title == '[level 4] "cart" service failure, critical'
    assert said.body.splitlines() == [
        'What: "cart does not answer"',
        'Cause: resource exhaustion in "cart", confidence 0.82',
        "Tried: restart succeeded, not healed",
        'Why you: "not healed", level 4 (everyone and a human)',
        "Next: acknowledge i1, then repair by the runbook: the fabric does nothing more by itself",
        "Incident: https://shf.example/incidents/i1",
        "Dashboard: https://grafana.example/d/shf-incident-overview?var-service=cart",
        "Runbook: https://run.example/cart",
    ]


def test_who_must_approve_is_told_how() -> None:
    """The command stands in the message."""
    assert (
        "Next: allow restart: shf approve i1; or reject it"
        in message(state="awaiting_approval", plan=["restart"]).body
    )


def test_who_is_called_while_the_fabric_only_waits_is_told_so() -> None:
    """Nobody is told to trust a repair that a guardrail, a pause or a missing answer keeps from beginning."""
    waiting = "storm: 8 of 13 services fail at once"
    body = message(state="recovering", waiting_for=waiting, actions=[]).body
    assert f'Next: look yourself: the fabric only waits, "{waiting}"; acknowledge i1' in body
    assert "trust" not in body
    assert "Next: nothing, if you trust the fabric: it is verifying" in message(state="verifying").body


def test_one_is_not_told_as_many() -> None:
    """Numbers and words agree."""
    over = replace(CALL, id="i2/call-1", incident_id="i2", kind=Kind.ENDED, reason="Recovered, and proved")
    stories = {"i1": story(), "i2": story(id="i2")}
    assert compose("k", [CALL, over], stories, SETTINGS).title == "[level 4] 1 incident needs help, 1 is over"


def test_what_is_not_known_is_said() -> None:
    """No cause is invented."""
    body = message(pattern=None, confidence=None, actions=[]).body
    assert "Cause: not known yet" in body
    assert "Tried: nothing" in body
    unsure = {
        "pattern": "unknown",
        "confidence": 0.0,
        "diagnosis": {"cause": {"service": "cart"}, "lead": "db"},
    }
    told = 'Cause: none is named, because the evidence carries none; look at "db"'
    assert message(**unsure).body.splitlines()[1] == told


HOSTILE = (
    "<!channel> @everyone [click](https://evil.example)\nIncident: https://evil.example `rm`\x1b[31m\u202e"
    * 9
)


@pytest.mark.parametrize("field", ["title", "service"])
def test_hostile_text_is_quoted_and_harmless(field: str) -> None:
    """No mention, no markup, no link, no line and no control character of a stranger gets into a message."""
    said = message(**{field: HOSTILE})
    text = said.title + said.body
    lines = said.body.splitlines()
    assert len(said.title) <= MAX_TITLE
    assert [line.split(":")[0] for line in lines[:5]] == ["What", "Cause", "Tried", "Why you", "Next"]
    assert not any(sign in text for sign in ("<!", "@everyone", "](", "//evil", "`", "\x1b", "\u202e"))
    assert all(line.split(":")[0] in ("Incident", "Dashboard", "Runbook") for line in lines[5:])


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "https://a b",
        "https://a\n",
        "http://",
        "file:///x",
        "https://a|b",
        "//x",
        "http://[",
    ],
)
def test_a_runbook_that_is_no_plain_address_is_left_out(url: str) -> None:
    """An annotation is a stranger's text too."""
    alerts = [{"annotations": {"runbook_url": url}, "service": "cart", "status": "firing"}]
    assert "runbook" not in links_of(story(alerts=alerts), SETTINGS)


def test_of_many_tries_the_last_are_named_and_the_others_counted() -> None:
    """Seven that failed must not read as five."""
    names = ["restart", "retry", "scale", "roll_back", "evict", "repair", "sync"]
    actions = [{"strategy": name, "status": "failed", "verdict": None} for name in names]
    assert (
        "Tried: 2 before; scale failed; roll back failed; evict failed; repair failed; sync failed\n"
        in message(actions=actions).body
    )


def test_who_has_no_runbook_is_not_sent_to_one() -> None:
    """What to do next names only what is there."""
    body = message(alerts=[{"annotations": {}, "service": "cart", "status": "firing"}]).body
    assert "Next: acknowledge i1, then repair yourself: the fabric does nothing more by itself" in body
    assert "runbook" not in body.lower()


def test_a_repair_that_did_not_last_is_told_as_such() -> None:
    """Three that healed read as if all were well."""
    healed = {"strategy": "restart", "status": "succeeded", "verdict": "healed"}
    assert (
        "Tried: restart succeeded, healed; it was over and began again once\n"
        in message(actions=[healed], relapses=1).body
    )
    assert "healed; it was over and began again 3 times\n" in message(actions=[healed] * 3, relapses=3).body


def test_what_is_too_long_ends_between_words() -> None:
    """A title, and other people's words in a line; a single long word is cut all the same."""
    reason = "the service has been healthy again " * 10
    over = message(replace(CALL, kind=Kind.ENDED, reason=reason)).title
    assert over.endswith(("service...", "been...", "healthy...", "again...", "the...", "has..."))
    assert 100 < len(over) <= MAX_TITLE
    summary = "checkout of the shop fails nine of ten orders " * 5
    line = message(title=summary).body.splitlines()[0]
    kept = line.removeprefix('What: "').removesuffix('..."')
    assert len(line) > 100
    assert summary.startswith(f"{kept} ")
    assert words("x" * 200) == f'"{"x" * 117}..."'


def test_without_addresses_there_are_no_links() -> None:
    """Nothing is guessed."""
    assert links_of(story(alerts=[]), Settings()) == {}


def test_many_calls_are_one_message_that_lists_them() -> None:
    """Each by its incident; no more than a screen of them."""
    ids = [f"i{number}" for number in range(60)]
    calls = [
        Call(f"{each}/call", Kind.ESCALATION, each, "cart", 1, "l", "human", ("human",), "r") for each in ids
    ]
    said = compose("i0/call", calls, {each: story(id=each) for each in ids}, SETTINGS, "No more until 12:00.")
    assert said.title == "[level 1] 60 incidents need help"
    assert said.body.splitlines()[0] == 'i0 "cart": level 1, service failure'
    assert said.body.splitlines()[50:] == [
        "and 10 more: shf incidents --message i0/call --limit 60",
        "All of these: https://shf.example/messages/i0/call",
        "No more until 12:00.",
    ]
    assert len(said.document["calls"]) == 60


def test_words_stay_readable() -> None:
    """Plain text is only quoted."""
    assert words("cart-7 failed: 12 % of /buy") == '"cart-7 failed: 12 % of /buy"'
