"""A configuration behind a URL: GET with an ETag, PUT with If-Match.

An answer can get lost after the target took the bytes, so what became of a PUT is never told by its answer
alone: see `strategies.sync`, which reads again. A weak ETag says "nearly the same" and can never match
If-Match, so it is refused like none at all.
"""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.recovery.configuration.desired import LARGEST, too_large
from self_healing_fabric.recovery.configuration.live import Change, Document, Running, stored_bytes
from self_healing_fabric.recovery.configuration.masking import Masker
from self_healing_fabric.recovery.effects import TargetAway, TargetUnreadable, unreadable
from self_healing_fabric.recovery.outcomes import Outcome, Permit
from self_healing_fabric.recovery.platforms.http import order, unasked
from self_healing_fabric.settings import ConfigurationSettings, SecretUnusable, bearer_headers


class HttpEndpoint(Document):
    """The configuration of one URL."""

    platform = "http"

    def __init__(self, settings: ConfigurationSettings, masker: Masker) -> None:
        self._live = settings.live
        self.url = str(settings.live.http)
        self.target = f"configuration:{self.url}"
        self.longest_write = self._timeout = settings.live.timeout
        self._token_file: Path | None = settings.live.bearer_token_file
        super().__init__(settings.format, masker)

    def read(self) -> Running:
        """GET it; the body is not quoted in any error."""
        ends = time.monotonic() + self._timeout
        try:
            with self._client() as client, client.stream("GET", self.url) as answer:
                if answer.status_code != 200:
                    raise unreadable(answer.status_code, f"{self.url} answered {answer.status_code}")
                outbound.refuse_packed(answer)
                content = bytearray()
                for part in answer.iter_bytes():
                    content += part
                    if time.monotonic() > ends:  # the client's timeout is for each part
                        raise TargetAway(f"{self.url} takes longer than {self._timeout:g} s")
                    if len(content) > LARGEST:
                        raise too_large(self.url)
        except httpx.HTTPError as error:
            raise unasked(self.url, error) from error
        etag = answer.headers.get("ETag", "")
        if not etag or etag.startswith("W/"):
            kind = "a weak ETag" if etag else "no ETag"
            raise TargetUnreadable(
                f"{self.url} answers with {kind}: a change in between could be overwritten unseen"
            )
        return Running(bytes(content), {"etag": etag, "media_type": answer.headers.get("Content-Type")})

    def write(self, change: Change, *, key: str, permit: Permit) -> Outcome | str:
        """PUT once, if it still is the version that was read. No answer tells that it is in force."""
        version, content = change["version"], stored_bytes(change["wanted"])
        media_type = version.get("media_type") or "application/octet-stream"
        return order(
            self._client,
            "PUT",
            self.url,
            key=key,
            permit=permit,
            accepts=lambda _: False,
            content=content or b"",
            headers={"If-Match": version["etag"], "Content-Type": media_type},
        )

    def _client(self) -> outbound.Client:
        try:
            headers = bearer_headers(self._token_file)
        except SecretUnusable as error:
            raise TargetUnreadable(str(error)) from error
        return outbound.client_for(self._live, timeout=self._timeout, headers=headers)
