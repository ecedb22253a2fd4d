"""Other people's words, fit for a line of ours: a target's answer is shown, shortened, and never followed."""

from __future__ import annotations

import re

LONGEST_QUOTE = 200  # characters of a target's own words


def quoted(text: object) -> str:
    """A target's own words, fit for one line of a page: no control characters, no more than a sentence."""
    words = " ".join(re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]", " ", str(text)).split())
    words = "".join(char for char in words if char.isprintable())
    return shortened(words, LONGEST_QUOTE)


def shortened(text: str, most: int) -> str:
    """At most so many characters; what is longer ends between two words, unless one word is most of it."""
    if len(text) <= most:
        return text
    kept = text[: most - 3]
    between = text[: most - 2].rfind(" ")
    return (kept[:between] if between > most // 2 else kept).rstrip() + "..."
