"""Who may call the fabric, where it listens, and the tokens that it sends."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field

from self_healing_fabric.settings.values import Section


class AuthSettings(Section):
    """The bearer token that callers must present; needed unless `listen` is a loopback address."""

    token_file: Path | None = Field(None, description="needed unless `listen` is a loopback address")


def bearer_headers(token_file: Path | None) -> dict[str, str]:
    """The headers that present a token, read anew for every call; none without a file. Raises OSError."""
    if token_file is None:
        return {}
    return {"Authorization": f"Bearer {token_file.read_text(encoding='utf-8').strip()}"}


def split_listen(listen: str) -> tuple[str, int]:
    """Split `host:port` (an IPv6 host in brackets). Raises ValueError with what to write instead."""
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("give an address and a port, for example 127.0.0.1:9931")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether the host name or address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
