"""Bounds that would hide a second effect or end a story early are lifted; those of a test's own remain."""

UNBOUND = {
    "max_failures": 1000,
    "max_heals": 1000,
    "fleet": {"at_once": "100%", "targets": "100%", "storm": "100%"},
}
