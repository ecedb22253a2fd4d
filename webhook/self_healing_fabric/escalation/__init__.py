"""Escalation: whom each level calls, and the channels that call."""
