"""Durations: what people write is read in the unit they meant, and what we write Prometheus reads."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from self_healing_fabric.durations import Duration, format_duration, parse_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("2m", 120),
        ("1h", 3600),
        ("1d", 86_400),
        ("1h30m", 5400),
        ("1m500ms", 60.5),
        (" 5s ", 5),
        ("0s", 0),
        ("5", 5),
        ("0.25", 0.25),
        (".5", 0.5),
        (7, 7),
        (0.1, 0.1),
        (0, 0),
    ],
)
def test_durations_are_read_in_the_unit_they_were_written_in(written: object, seconds: float) -> None:
    """Text needs a unit unless it is a plain number, which is seconds."""
    assert parse_duration(written) == pytest.approx(seconds)


NOT_DURATIONS: list[object] = [
    *("5x", "", " ", "s", "-5s", "1.5m", "30 s", "1m1h", "5s5s", "1e3", "٣s", "inf", "nan", "1w", "1y"),
    *(-1, math.inf, math.nan, True, None, [], {"seconds": 5}),
]


@pytest.mark.parametrize("written", NOT_DURATIONS)
def test_what_is_no_duration_is_refused_with_examples(written: object) -> None:
    """The message repeats what was written and says what would be right."""
    with pytest.raises(ValueError, match="is not a duration: use for example 500ms, 30s, 2m, 1h") as caught:
        parse_duration(written)
    assert str(caught.value).startswith(repr(written))


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (30, "30s"),
        (60, "1m"),
        (90, "90s"),
        (3600, "1h"),
        (21_600, "6h"),
        (86_400, "1d"),
    ],
)
def test_durations_are_written_in_the_largest_unit_that_divides_them(seconds: float, written: str) -> None:
    """Never a fraction, which Prometheus would refuse."""
    assert format_duration(seconds) == written


def test_a_duration_below_the_resolution_of_prometheus_is_not_written_as_nothing() -> None:
    """A window of 0s is an error in Prometheus, and far from what was meant."""
    with pytest.raises(ValueError, match="less than 1ms"):
        format_duration(0.0001)


@given(st.integers(min_value=0, max_value=10**12))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    """Writing and reading agree to the millisecond."""
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


class Model(BaseModel):
    wait: Duration = 5.0


def test_a_field_holds_seconds_and_its_error_names_it() -> None:
    """Models get a float whatever was written, and pydantic's error has the path of the field."""
    assert Model.model_validate({"wait": "2m"}).wait == 120.0
    assert isinstance(Model.model_validate({"wait": 3}).wait, float)
    with pytest.raises(ValidationError, match="'5x' is not a duration") as caught:
        Model.model_validate({"wait": "5x"})
    assert caught.value.errors()[0]["loc"] == ("wait",)
