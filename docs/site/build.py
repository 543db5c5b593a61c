"""Build the documentation site: `python docs/site/build.py OUT`, which leaves it in OUT/html.

The repository's Markdown files, and every file that they link to, are copied to OUT/pages in the repository's own
folders: the same relative links hold in an editor, on a code host and here. Zensical renders them in strict mode, in
which a broken link fails. So does, before that, a link to a file that does not exist.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "outputs/reference/*.md",
    "outputs/reference/external/*.md",
)
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def pages() -> list[Path]:
    """Every Markdown file that is a page, as absolute paths in order."""
    return [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]


def links(page: Path) -> list[str]:
    """Targets in the repository that ``page`` links to, relative to its folder."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def lay_out(pages_folder: Path) -> None:
    """Copy the pages, and the files that they link to, into ``pages_folder``."""
    wanted = set(pages())
    for page in list(wanted):
        for target in links(page):
            found = (page.parent / target).resolve()
            if not found.is_file() or not found.is_relative_to(ROOT):
                raise SystemExit(f"{page.relative_to(ROOT)} links to {target}: no file of the repository")
            wanted.add(found)
    for path in wanted:
        copy = pages_folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def main(out: Path) -> None:
    """Build the site below ``out``, from nothing."""
    shutil.rmtree(out, ignore_errors=True)
    lay_out(out / "pages")
    shutil.copyfile(Path(__file__).with_name("zensical.toml"), out / "zensical.toml")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    if subprocess.run(command, cwd=out, check=False).returncode:
        raise SystemExit("the site was not built: mend what is listed above")
    print(f"site: {out / 'html' / 'index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
