"""Who may call the fabric and for what, where it listens, and the tokens that it sends.

Whoever can send an alert can have a service restarted, and whoever can control can stop the healing. A token
that does all of that ends up in Alertmanager's configuration, in Prometheus's and in everybody's shell, so
there are callers of several names with the rights that each of them needs and with secrets of their own.
"""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from self_healing_fabric.settings.values import Name, Section


class Right(StrEnum):
    """What a caller may do."""

    SEND = "send"  # alerts and heartbeats
    READ = "read"  # incidents, status, mode, targets
    CONTROL = "control"  # decisions, mode, verdicts; whoever decides must see on what, so it implies `read`


ALL_RIGHTS = frozenset(Right)

# No colon, which ends a username in HTTP basic authentication.
Username = Annotated[str, Field(pattern=r"^[!-9;-~]{1,100}$")]


def check_pair(username: str | None, password_file: Path | None) -> None:
    """Raise ValueError where one is given without the other."""
    if (username is None) is not (password_file is None):
        raise ValueError("`username` and `password_file` belong together")


class CallerSettings(Section):
    """One caller: its rights, and how it is known."""

    rights: tuple[Right, ...] = Field(
        min_length=1, description="of `send` (alerts, heartbeats), `read`, `control` (which implies `read`)"
    )
    token_file: Path | None = Field(None, description="bearer token, read anew for every call")
    username: Username | None = Field(None, description="instead of a token: HTTP basic authentication")
    password_file: Path | None = Field(None, description="of `username`, read anew for every call")

    @model_validator(mode="after")
    def _one_way(self) -> CallerSettings:
        check_pair(self.username, self.password_file)
        if (self.token_file is None) is (self.password_file is None):
            raise ValueError("give either `token_file`, or `username` and `password_file`")
        return self


@dataclass(frozen=True)
class Credential:
    """A way to be known as a caller. `caller` is None for the one token that may do everything."""

    caller: str | None
    rights: frozenset[Right]
    scheme: Literal["bearer", "basic"]
    file: Path
    username: str | None = None

    def secret(self) -> bytes:
        """What has to be presented, read anew as it may be rotated; empty, and never valid, as the file is.

        Raises:
            OSError: the file cannot be read.
            UnicodeError: it holds no text.
        """
        text = self.file.read_text(encoding="utf-8").strip()
        if not text:
            return b""
        return (text if self.username is None else f"{self.username}:{text}").encode()


class AuthSettings(Section):
    """Who may call; somebody must be named unless `listen` is a loopback address."""

    token_file: Path | None = Field(
        None, description="one token for everything; it or `callers` is needed beyond loopback"
    )
    callers: Mapping[Name, CallerSettings] = Field({}, description="who may do what, by name")

    def credentials(self) -> tuple[Credential, ...]:
        """Every way to be let in, in the order of the file; none: everybody on this machine may do all."""
        found = [] if self.token_file is None else [Credential(None, ALL_RIGHTS, "bearer", self.token_file)]
        for name, caller in self.callers.items():
            rights = frozenset(caller.rights)
            if Right.CONTROL in rights:
                rights |= {Right.READ}
            file = caller.token_file or caller.password_file
            if file is not None:
                scheme: Literal["bearer", "basic"] = "basic" if caller.username else "bearer"
                found.append(Credential(name, rights, scheme, file, caller.username))
        return tuple(found)


class SecretUnusable(OSError):
    """A file holds nothing that can be sent as a secret. Its text names the file and tells nothing of what is
    in it, as the errors of decoders and of HTTP clients do."""


def read_secret(file: Path) -> str:
    """The token or password in a file. Raises SecretUnusable."""
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SecretUnusable(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeError:
        raise SecretUnusable(f"{file} cannot be read: not UTF-8") from None
    if not secret:
        raise SecretUnusable(f"{file} is empty: write the secret into it")
    if not secret.isprintable():
        raise SecretUnusable(f"{file} holds more than one line, or control characters: write only the secret")
    return secret


def bearer_headers(token_file: Path | None) -> dict[str, str]:
    """The headers that present a token, read anew for every call; none without a file.

    Raises:
        SecretUnusable: the file holds no token.
    """
    if token_file is None:
        return {}
    token = read_secret(token_file)
    if not token.isascii():
        raise SecretUnusable(f"{token_file} holds no token: an HTTP header takes ASCII only")
    return {"Authorization": f"Bearer {token}"}


def basic_headers(username: str, password_file: Path) -> dict[str, str]:
    """The headers of HTTP basic authentication, the password read anew for every call.

    Raises:
        SecretUnusable: the file holds no password.
    """
    pair = f"{username}:{read_secret(password_file)}"
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


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
