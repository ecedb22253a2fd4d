"""Labelled faults in running services, diagnosed end to end by the running product, and judged."""
