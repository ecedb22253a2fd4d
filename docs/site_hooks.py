"""Lets the pages be read both in the repository and as a site.

In the repository a page may link to any file. The site has the pages of docs/, the runbooks, the changelog
and the guide for contributors; a link to one of those stays inside it, and one to any other file leads to the
repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
RUNBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("alert_rules/runbooks/*.md"))
# What the site has besides docs/: where it is in the repository, and there.
ADDED = {
    **{path: f"runbooks/{posixpath.basename(path)}" for path in RUNBOOKS},
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"(\]\()(?!https?://|mailto:|#)([^)#\s]+)(#[^)\s]*)?(\))")


def on_config(config: Any) -> Any:
    """Put the runbooks where the navigation names them, and pages that it does not name yet at its end."""
    named = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    pages = sorted(
        path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md")
    )
    config.nav = [*_with_runbooks(config.nav), *(page for page in pages if page not in named)]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is no page of docs/."""
    for source, target in ADDED.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn the links that lead out of docs/."""
    uri = page.file.src_uri
    here = next((path for path, name in ADDED.items() if name == uri), f"docs/{uri}")

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[2]))
        inside = ADDED.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        exists = (ROOT / target).exists()
        if inside is not None and (not exists or files.get_file_from_path(inside) is not None):
            link = posixpath.relpath(inside, posixpath.dirname(uri) or ".")
        elif not exists:
            return match[0]  # mkdocs says that it leads nowhere
        else:
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            link = f"{config.repo_url.rstrip('/')}/{kind}/main/{target}"
        return f"{match[1]}{link}{match[3] or ''}{match[4]}"

    return _LINK.sub(turned, markdown)


def _with_runbooks(part: Any) -> Any:
    if part == ["RUNBOOKS"]:
        return [ADDED[path] for path in RUNBOOKS]
    if isinstance(part, list):
        return [_with_runbooks(each) for each in part]
    if isinstance(part, dict):
        return {key: _with_runbooks(value) for key, value in part.items()}
    return part
