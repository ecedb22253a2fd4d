"""The benchmark is not installed: its folder is put on the path, as Python does for who runs it."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "bench"))
