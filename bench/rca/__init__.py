"""Measures the diagnosis on labelled public cases, beside published methods: `make bench-rca DATA=DIR`."""
