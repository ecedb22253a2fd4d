"""Answers of Prometheus as values: labels and NumPy arrays with the time of every sample.

The time of a sample matters as much as its value: an instant query answers with samples up to five minutes
old as if they were of now, and a healer that believes them proves its own success with the data of the
failure. So a `Series` always carries the times at which Prometheus really stored the samples when it was
asked for raw ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One element of an instant vector. `time` is the evaluation's, in seconds since 1970 (UTC)."""

    labels: Mapping[str, str]
    time: float
    value: float


@dataclass(frozen=True)
class Series:
    """One series: `times` in seconds since 1970 (UTC), ascending, and `values`; both of shape (n,)."""

    labels: Mapping[str, str]
    times: FloatArray
    values: FloatArray


def vector(result: Sequence[Mapping[str, Any]]) -> tuple[Sample, ...]:
    """Convert the `result` list of an instant query that answers with a vector."""
    return tuple(
        Sample(labels=dict(item["metric"]), time=float(item["value"][0]), value=float(item["value"][1]))
        for item in result
    )


def matrix(result: Sequence[Mapping[str, Any]]) -> tuple[Series, ...]:
    """Convert the `result` list of a query that answers with a matrix."""
    return tuple(_series(item["metric"], item["values"]) for item in result)


def _series(labels: Mapping[str, str], pairs: Sequence[Sequence[Any]]) -> Series:
    times = np.fromiter((pair[0] for pair in pairs), dtype=np.float64, count=len(pairs))
    values = np.fromiter((float(pair[1]) for pair in pairs), dtype=np.float64, count=len(pairs))
    return Series(labels=dict(labels), times=times, values=values)
