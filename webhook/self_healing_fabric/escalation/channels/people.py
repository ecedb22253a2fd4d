"""People, through apprise: mail, chat, SMS, pagers, more than a hundred services behind one URL each.

The URLs hold passwords and tokens. They are read from a file anew for every call, and nothing of them is ever
logged or stored: apprise's own log is switched off, and what was reached is remembered by a digest. Each URL
is tried by itself, so that a second try does not repeat what has arrived, and a line with a slip of the pen
keeps nobody from hearing who stands in the others. Nor does a service that hangs: all are told beside each
other, each in a time of its own, for apprise's timeouts are for each part of an answer. Services refuse what
is longer than they take, and the message of a storm is: so it is cut, unless the URL says what else to do
(`overflow`).
"""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Mapping
from typing import Any

from self_healing_fabric.errors import ShfError
from self_healing_fabric.escalation.channels.delivery import CallFailed, Receipt
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.extensions import Begun, Misbehaved, begin
from self_healing_fabric.settings import AppriseChannel as AppriseSettings
from self_healing_fabric.settings import Settings

# Characters. Below it are those for SMS: apprise counts one, and they join several.
LEAST_LIMIT = 1000
CUT = "\n(...)\n"
SENT_WITHIN = 30.0  # seconds for one service and one try


class UrlsUnusable(ShfError):
    """The file with apprise's URLs cannot be used: its text says which line, and never what stands there."""


class AppriseChannel:
    """Sends to every URL of one file."""

    gathers = True
    alive_for = None

    def __init__(self, settings: AppriseSettings, _: Settings) -> None:
        self._file = settings.urls_file

    def send(self, message: Message, progress: Mapping[str, Any]) -> Receipt:
        """Send to those that an earlier try has not reached. Raises CallFailed unless all are reached."""
        reached = list(progress.get("reached", ()))
        left: dict[str, tuple[int, Any]] = {}  # by their digests
        try:
            for number, service, url in self._services():
                digest = hashlib.sha256(f"{message.key}\n{url}".encode()).hexdigest()[:16]
                if digest not in reached:
                    left[digest] = number, service
        except UrlsUnusable as error:
            raise CallFailed(str(error), partly=bool(reached), progress={"reached": reached}) from error
        begun = {digest: self._begin(*place, message) for digest, place in left.items()}
        failed = {digest: why for digest, each in begun.items() if (why := _end(each)) is not None}
        reached += [digest for digest in left if digest not in failed]
        if failed:
            why = "; ".join(failed.values())
            raise CallFailed(why, partly=bool(reached), progress={"reached": reached})
        return Receipt(progress={"reached": reached})

    def check(self) -> str:
        """Read the file; nothing is sent. Raises UrlsUnusable."""
        found = self._services()
        for number, service, _ in found:
            if service is None:
                raise UrlsUnusable(self._unknown(number))
        return f"{len(found)} service{'s' if len(found) != 1 else ''} in {self._file}"

    def _begin(self, number: int, service: Any, message: Message) -> Begun[str | None] | str:
        """Begin to tell one of them, or say why that cannot be."""
        if service is None:
            return self._unknown(number)
        who = f"the service in line {number} of {self._file}"
        try:
            return begin(who, lambda: None if _notify(service, message) else f"{who} did not take it")
        except Misbehaved as error:
            return str(error)

    def _unknown(self, number: int) -> str:
        return f"{self._file}, line {number}: not a URL that apprise knows"

    def _services(self) -> list[tuple[int, Any, str]]:
        """Each line's number, what apprise makes of it, or None, and the line. Raises UrlsUnusable."""
        apprise = _apprise()
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UrlsUnusable(f"{self._file} cannot be read: {reason}") from None
        found = []
        for number, line in enumerate(lines, 1):
            url = line.strip()
            if not url or url.startswith("#"):
                continue
            found.append((number, apprise.Apprise.instantiate(url), url))
        if not found:
            raise UrlsUnusable(f"{self._file} holds no URL")
        return found


def _end(begun: Begun[str | None] | str) -> str | None:
    """Why one of them was not told; None: it was."""
    try:
        return begun if isinstance(begun, str) else begun.value(within=SENT_WITHIN)
    except Misbehaved as error:
        return str(error)


def _notify(service: Any, message: Message) -> bool:
    body = message.body
    if service.overflow_mode == "upstream":  # apprise's default: the service gets it as it is
        body = shortened(body, max(service.body_maxlen, LEAST_LIMIT) - len(message.title) - 2)
    try:
        return bool(service.notify(title=message.title, body=body, body_format="text"))
    except Exception:  # noqa: BLE001 - a plugin of somebody else's; its text may hold the URL
        return False


def shortened(text: str, limit: int) -> str:
    """The text within the limit: its middle is left out, for the links stand at its end."""
    if len(text) <= limit:
        return text
    end = text[-limit // 3 :].partition("\n")[2]
    return text[: limit - len(CUT) - len(end)] + CUT + end


def _apprise() -> Any:
    """Imported when the first call is made: it takes a third of a second."""
    try:
        module = importlib.import_module("apprise")
    except ModuleNotFoundError:
        raise UrlsUnusable("needs an extra: pip install 'self-healing-fabric[apprise]'") from None
    logging.getLogger("apprise").disabled = True  # it quotes URLs
    return module
