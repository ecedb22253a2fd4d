"""JSON columns: what both databases take. A measured value may be NaN or infinite, which JSON cannot say."""

from __future__ import annotations

import json
import math
from typing import Any

_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))  # json.dumps would make one each time


def dumps(value: Any) -> str:
    """`value` as JSON; NaN and the infinities become the strings that Prometheus uses for them."""
    try:
        return _JSON.encode(value)
    except ValueError:
        return _JSON.encode(_sayable(value))


def _sayable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    if isinstance(value, dict):
        return {key: _sayable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(each) for each in value]
    return value
