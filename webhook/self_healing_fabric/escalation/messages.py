"""What a call says: short enough for a telephone, complete enough to act on, and the whole for a program.

A page at night is read in seconds: what broke, the likely cause and how sure that is, what was tried, what to
do next, and where to look. Everything that comes from labels, annotations or targets is somebody else's text:
it is quoted, kept to one line, and cannot mention people or open links in a chat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from self_healing_fabric.escalation.calls import Call, Kind
from self_healing_fabric.incidents.telling import firing_first
from self_healing_fabric.quoting import quoted, shortened
from self_healing_fabric.settings import Settings

DASHBOARD = "shf-incident-overview"  # uid of the shipped dashboard
MAX_TITLE = 120  # characters: with the link it fits one SMS
MAX_LISTED = 50  # incidents that a message of many lists by name
MAX_TRIED = 5  # actions that a message names, the last ones
MAX_WORDS = 120  # characters of other people's text in one line
_DISARMED = str.maketrans({"<": "‹", ">": "›", "@": "＠", "`": "'", "*": "∗", "[": "(", "]": ")"})

Story = Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """What a channel sends: of one call, or of many at once.

    Attributes:
        key: the same for every try, so that a receiver recognises what it has heard.
        title: one line.
        body: a few lines of plain text.
        document: the same for a program, with the whole incident.
        calls: what it carries; all to the same contact.
        stories: the incidents, by their ids.
    """

    key: str
    title: str
    body: str
    document: Mapping[str, Any]
    calls: tuple[Call, ...]
    stories: Mapping[str, Story]


def compose(
    key: str,
    calls: Sequence[Call],
    stories: Mapping[str, Story],
    settings: Settings,
    note: str | None = None,
    answers: Mapping[str, str] | None = None,
) -> Message:
    """Say what these calls are about.

    Args:
        key: of the message.
        calls: what it carries.
        stories: the incidents, by their ids.
        settings: of the fabric.
        note: what the reader should know of messages to come.
        answers: links by which the reader of a single call can answer what it asks for.
    """
    first = calls[0]
    if len(calls) == 1:
        story = stories[first.incident_id]
        title, lines = _single(first, story, settings)
        content: dict[str, Any] = {"kind": first.kind.value, "incident": story}
        content |= {"level": first.level, "level_name": first.level_name, "reason": first.reason}
        content["links"] = {**links_of(story, settings), **(answers or {})}
        lines += [f"{name.capitalize()}: {url}" for name, url in (answers or {}).items()]
    else:
        title, lines = _many(key, calls, stories, settings)
        content = {"kind": "storm", "calls": [_line_of_document(each, stories, settings) for each in calls]}
    if note:
        lines.append(note)
    document = {"version": 1, "call": key, "contact": first.contact, **content, "note": note}
    return Message(key, shortened(title, MAX_TITLE), "\n".join(lines), document, tuple(calls), dict(stories))


def links_of(story: Story, settings: Settings) -> dict[str, str]:
    """Where to look: the incident's page, the dashboard, the runbook; those that are known."""
    found = {}
    if settings.external_url:
        found["incident"] = f"{settings.external_url}/incidents/{story['id']}"
    if settings.grafana:
        found["dashboard"] = f"{settings.grafana.url}/d/{DASHBOARD}"
        if story["service"] in settings.services:
            found["dashboard"] += f"?var-service={story['service']}"
    runbook = next(filter(None, (_runbook(each) for each in firing_first(story["alerts"]))), None)
    if runbook:
        found["runbook"] = runbook
    return found


def words(text: object) -> str:
    """Other people's text, for one line of a message: quoted, and harmless in a chat."""
    plain = quoted(text).translate(_DISARMED).replace("://", ":∕∕")
    return f'"{shortened(plain, MAX_WORDS)}"'


def _single(call: Call, story: Story, settings: Settings) -> tuple[str, list[str]]:
    service = words(story["service"] or "no service")
    if call.kind is Kind.ENDED:
        lines = [f"{call.reason}. You were called at level {call.level} ({call.level_name})."]
        return f"[over] {service}: {call.reason}", [*lines, *_links(story, settings)]
    title = f"[level {call.level}] {service} {_in_one_word(story)}, {story['severity']}"
    lines = [
        f"What: {words(story['title'])}",
        f"Cause: {_cause(story)}",
        f"Tried: {_tried(story)}{_relapses(story)}",
        f"Why you: {words(call.reason)}, level {call.level} ({call.level_name})",
        f"Next: {_next(story, settings)}",
    ]
    return title, [*lines, *_links(story, settings)]


def _many(
    key: str, calls: Sequence[Call], stories: Mapping[str, Story], settings: Settings
) -> tuple[str, list[str]]:
    help_needed = [call for call in calls if call.kind is Kind.ESCALATION]
    over = len(calls) - len(help_needed)
    needed = "1 incident needs" if len(help_needed) == 1 else f"{len(help_needed)} incidents need"
    parts = [f"{needed} help"] if help_needed else []
    parts += [f"{over} {'is' if over == 1 else 'are'} over"] if over else []
    lines = []
    for call in calls[:MAX_LISTED]:
        story = stories[call.incident_id]
        state = call.reason if call.kind is Kind.ENDED else f"level {call.level}, {_in_one_word(story)}"
        lines.append(f"{call.incident_id} {words(story['service'] or 'no service')}: {state}")
    if len(calls) > MAX_LISTED:
        lines.append(
            f"and {len(calls) - MAX_LISTED} more: shf incidents --message {key} --limit {len(calls)}"
        )
    if settings.external_url:
        lines.append(f"All of these: {settings.external_url}/messages/{key}")
    highest = max(call.level for call in calls)
    return f"[level {highest}] {', '.join(parts)}", lines


def _line_of_document(call: Call, stories: Mapping[str, Story], settings: Settings) -> dict[str, Any]:
    story = stories[call.incident_id]
    kept = ("id", "title", "service", "state", "severity", "failure_class", "pattern", "confidence")
    return {
        "call": call.id,
        "kind": call.kind.value,
        "level": call.level,
        "reason": call.reason,
        "incident": {name: story[name] for name in kept},
        "links": links_of(story, settings),
    }


def _in_one_word(story: Story) -> str:
    return str(story["failure_class"] or "fails").replace("_", " ")


def _cause(story: Story) -> str:
    if not story["pattern"] or story["confidence"] is None:
        return "not known yet"
    if story["pattern"] == "unknown":
        lead = story["diagnosis"].get("lead")  # an older fabric did not tell it
        return "none is named, because the evidence carries none" + (
            f"; look at {words(lead)}" if lead else ""
        )
    service = ((story["diagnosis"] or {}).get("cause") or {}).get("service") or story["service"]
    return f"{story['pattern'].replace('_', ' ')} in {words(service)}, confidence {story['confidence']:.2f}"


def _tried(story: Story) -> str:
    told = [
        f"{action['strategy']} {action['status']}" + (f", {action['verdict']}" if action["verdict"] else "")
        for action in story["actions"]
    ]
    earlier = [f"{len(told) - MAX_TRIED} before"] if len(told) > MAX_TRIED else []
    return "; ".join([*earlier, *told[-MAX_TRIED:]]).replace("_", " ") or "nothing"


def _relapses(story: Story) -> str:
    """Without it, who is called reads of a repair that healed, and not that it did not last."""
    times = story["relapses"]
    return f"; it was over and began again {'once' if times == 1 else f'{times} times'}" if times else ""


def _next(story: Story, settings: Settings) -> str:
    identity = story["id"]
    if story["state"] == "awaiting_approval":
        what = story["plan"][0] if story["plan"] else "it"
        return f"allow {what}: shf approve {identity}; or reject it"
    if story["state"] == "escalated":
        how = "by the runbook" if "runbook" in links_of(story, settings) else "yourself"
        return f"acknowledge {identity}, then repair {how}: the fabric does nothing more by itself"
    if story["waiting_for"]:
        reason = words(story["waiting_for"])
        return f"look yourself: the fabric only waits, {reason}; acknowledge {identity} to stop the levels"
    return (
        f"nothing, if you trust the fabric: it is {story['state']}; acknowledge {identity} to stop the levels"
    )


def _links(story: Story, settings: Settings) -> list[str]:
    return [f"{name.capitalize()}: {url}" for name, url in links_of(story, settings).items()]


def _runbook(alert: Mapping[str, Any]) -> str | None:
    """The alert's runbook, when it is a plain web address."""
    url = str(alert["annotations"].get("runbook_url", ""))
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    harmless = url.isascii() and url.isprintable() and not set(url) & set(" <>\"'`|")
    return url if harmless and parts.scheme in ("http", "https") and parts.hostname else None
