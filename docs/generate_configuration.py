"""Writes docs/configuration.md from the models that validate it, so that the page cannot drift.

Run it as `python docs/generate_configuration.py` after a change of the settings; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from self_healing_fabric.durations import format_duration, parse_duration
from self_healing_fabric.settings import Settings
from self_healing_fabric.starter import STARTER

PAGE = Path(__file__).parent / "configuration.md"
HEAD = f"""\
# Configuration

One YAML file: `--config FILE`, else `$SHF_CONFIG`, else `shf.yaml` in the working directory. `shf init`
writes this one to start from:

```yaml
{STARTER}```

Any value can be overridden by the environment: `SHF_` and its path, `__` between the parts, for example
`SHF_PROMETHEUS__URL`. Secrets are read from files. Durations: `500ms`, `30s`, `2m`, `1h` or a number
of seconds. All mistakes are reported at once, by path; `shf check` also asks every server.
A part below which nothing is given, because all its lines are comments for example, is as good as absent.

This page is generated from the code (`docs/generate_configuration.py`).

| setting | default | meaning |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = (f"| `{path}` | {default} | {meaning} |\n" for path, default, meaning in _rows(Settings, ""))
    return HEAD + "".join(rows)


def _rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = _model_in(field.annotation)
        yield path, _default(field, inner), field.description or ""
        if inner is not None:
            yield from _rows(inner, f"{path}.{_key(field)}")


def _key(field: FieldInfo) -> str:
    """What stands for the key of a mapping or the number in a list."""
    names = {part.__name__ for part in (get_origin(field.annotation),) if part}
    return "NAME." if "Mapping" in names else "N." if "tuple" in names else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def _default(field: FieldInfo, inner: type[BaseModel] | None) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or (inner is not None and not isinstance(value, tuple)) or value in ((), {}):
        return ""
    if parse_duration in [getattr(item, "func", None) for item in field.metadata]:
        return f"`{format_duration(value)}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{getattr(item, 'name', item)}`" for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{key}: {', '.join(names) or 'none'}" for key, names in value.items())
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
