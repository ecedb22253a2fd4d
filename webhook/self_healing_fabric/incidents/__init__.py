"""Incidents: one problem, one state, one timeline. Knows nothing of HTTP."""
