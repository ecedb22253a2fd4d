"""What tests counted, said at the end of the run: a matrix that tests nothing is green, too.

Where files of tests run side by side, the processes that ran them hand it to the one that reports.
"""

from __future__ import annotations

LINES: list[str] = []
KEY = "counted"  # in what a worker of pytest-xdist sends when it is done
