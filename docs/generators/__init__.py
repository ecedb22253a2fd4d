"""The makers of the reference pages, one module for each subject; see `generate_reference.py`."""
