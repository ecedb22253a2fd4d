"""How large an alert may be: labels and annotations come from whoever can write a metric.

Refusing a notification for one label that is too long would lose the other alerts in it, so nothing is
refused: what is too much of one alert is cut off when it is stored. Its identity (Alertmanager's fingerprint
and the time), its status and the labels that the fabric reads are kept before all others, and the label
`shf_cut` says that something is missing. A cut name of a service is no configured one, so such an alert goes
to people.
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_LABELS = 64  # Prometheus's users have 10 to 20; Mimir and Cortex refuse more than 30 by default
MAX_ANNOTATIONS = 64
MAX_NAME = 256  # characters
MAX_VALUE = 8_192  # characters; Mimir and Cortex allow 2,048 in a label, a description has a few hundred
CUT = "shf_cut"
CUT_OFF = "... (cut off)"

_KEPT_FIRST = ("alertname", "service", "severity", "signal", "cluster", "namespace", "job", "instance")


def bounded(
    labels: Mapping[str, str], annotations: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The labels and annotations of an alert within the limits; as they are when they keep to them."""
    kept, cut_labels = _within(labels, MAX_LABELS)
    said, cut_annotations = _within(annotations, MAX_ANNOTATIONS)
    if cut_labels or cut_annotations:
        kept[CUT] = f"{cut_labels} labels and {cut_annotations} annotations are missing or cut off"
    return kept, said


def _within(pairs: Mapping[str, str], number: int) -> tuple[dict[str, str], int]:
    """The pairs within the limits, and how many are missing or cut off."""
    if len(pairs) <= number and all(len(k) <= MAX_NAME and len(v) <= MAX_VALUE for k, v in pairs.items()):
        return dict(pairs), 0
    first = [name for name in _KEPT_FIRST if name in pairs]
    names = [*first, *(name for name in sorted(pairs) if name not in first and len(name) <= MAX_NAME)][
        :number
    ]
    cut = len(pairs) - len(names)
    kept: dict[str, str] = {}
    for name in names:
        value = pairs[name]
        if len(value) > MAX_VALUE:
            value, cut = value[: MAX_VALUE - len(CUT_OFF)] + CUT_OFF, cut + 1
        kept[name] = value
    return kept, cut
