"""The token to send, from a file that somebody may be writing anew just now."""

from __future__ import annotations

from pathlib import Path


class TokenUnusable(OSError):
    """A file holds nothing that can be sent as a token. Its text names the file and tells nothing of what is
    in it, as those do that HTTP clients raise."""


def bearer_token(file: Path) -> str:
    """The token in a file. Raises TokenUnusable."""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise TokenUnusable(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeError:
        token = ""
    if not (token and token.isascii() and token.isprintable()):
        raise TokenUnusable(f"{file} must hold one line of ASCII, the token, and nothing else")
    return token
