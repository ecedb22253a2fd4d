"""Heals what Prometheus alerts on: diagnoses, repairs within guardrails, proves it, or escalates."""

__version__ = "0.1.0"
