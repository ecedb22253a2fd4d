"""The way a process ended: what an exit code says, and what it does not."""

import pytest

from self_healing_fabric.diagnosis.patterns import Pattern
from self_healing_fabric.diagnosis.sources.exits import how_it_ended, supported_by


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "code 0"),
        (1, "code 1"),
        (126, "code 126, its command cannot be executed"),
        (127, "code 127, its command was not found"),
        (137, "code 137, SIGKILL"),
        (139, "code 139, SIGSEGV"),
        (143, "code 143, SIGTERM"),
        (-1, "code -1"),
        (255, "code 255"),
    ],
)
def test_an_exit_code_is_told_in_words(code: int, words: str) -> None:
    """Signals have their names; what is no signal has none."""
    assert how_it_ended(code) == words


@pytest.mark.parametrize(
    ("code", "likeliest"),
    [
        (1, Pattern.CODE_BUG),
        (139, Pattern.CODE_BUG),
        (127, Pattern.CONFIGURATION_ERROR),
        (126, Pattern.CONFIGURATION_ERROR),
        (137, None),
        (143, None),
        (0, None),
    ],
)
def test_an_exit_code_speaks_for_a_pattern(code: int, likeliest: Pattern | None) -> None:
    """A SIGKILL alone is not a want of memory, whatever its fame."""
    supports = supported_by(code)
    assert max(supports, key=lambda pattern: supports[pattern], default=None) == likeliest
