"""Run `python grafana/generate.py` and commit what it writes into dashboards/; a test compares the two."""

from __future__ import annotations

from shf_dashboards.files import FOLDER, rendered


def main() -> None:
    """Write all dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
