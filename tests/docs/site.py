"""``make docs``: the guide and the docstrings as pages in ``site/``, with every link between them checked.

A page of the guide is Markdown, and pdoc renders modules: so each page is given to it as a module whose docstring it is. Names of ours in
it become links, and the search finds it.
"""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pdoc
import pdoc.doc
import pdoc.render

import seedbed
import seedbed.http
from tests.docs.pages import GUIDE, ROOT

ROOMS = (
    "errors",
    "llm",
    "sampling",
    "generation",
    "protocols",
    "http",
    "server",
    "recording",
    "regression",
    "observing",
    "testing",
    "pytest_plugin",
)
# Modules that specify something: a file format, a protocol, a mapping.
SPECIFICATIONS = (
    "generation.bulk",
    "generation.bulk.columns",
    "generation.bulk.output",
    "generation.bulk.prompts",
    "protocols.native",
    "protocols.kserve_v2",
    "recording.exact",
    "recording.format",
    "regression.metrics",
    "sampling.randomness",
    "server.asgi",
    "server.planted",
)
FIRST = "index"


def build(site: Path) -> int:
    """Write all pages; returns how many."""
    for package in (seedbed, seedbed.http):  # what comes lazily, pdoc does not see
        for name in package.__all__:
            getattr(package, name)
    modules = {name: pdoc.doc.Module.from_name(name) for name in ("seedbed", *(f"seedbed.{part}" for part in (*ROOMS, *SPECIFICATIONS)))}
    pages = {f"seedbed.guide.{page.stem.replace('-', '_')}": _as_module(page) for page in sorted(GUIDE.glob("*.md"))}
    pdoc.render.configure(docformat="google", footer_text=f"seedbed {_version()}")
    everything = {**pages, **modules}
    shutil.rmtree(site, ignore_errors=True)
    for name, module in everything.items():
        target = site / f"{name.replace('.', '/')}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(pdoc.render.html_module(module, everything), "utf-8")
    for picture in GUIDE.glob("*.svg"):
        shutil.copy(picture, site / "seedbed" / "guide")
    (site / "search.js").write_text(pdoc.render.search_index(everything), "utf-8")
    home = f"seedbed/guide/{FIRST}.html"
    (site / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={home}"><a href="{home}">seedbed</a>\n'
    )
    return len(everything)


def broken_links(site: Path) -> list[str]:
    """Links within the site that lead nowhere, as "page: target"."""
    read = {path.resolve(): _Anchors.of(path) for path in site.rglob("*.html")}
    broken = []
    for path, found in read.items():
        for link in found.links:
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            there = (path.parent / unquote(target)).resolve() if target else path
            if not there.exists() or (anchor and there in read and unquote(anchor) not in read[there].names):
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken


def _as_module(page: Path) -> pdoc.doc.Module:
    module = ModuleType(f"seedbed.guide.{page.stem.replace('-', '_')}", _for_pdoc(page.read_text("utf-8")))
    module.__all__ = []  # type: ignore[attr-defined]
    return pdoc.doc.Module(module)


def _for_pdoc(text: str) -> str:
    """Links between pages lead to what is rendered; links to files of the repository become their names."""
    text = re.sub(r"(?<!!)\[([^\]]*)\]\(([\w-]+)\.md(#[\w-]*)?\)", lambda m: f"[{m[1]}]({m[2].replace('-', '_')}.html{m[3] or ''})", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\(\.\.[^)]*\)", r"\1", text)


def _version() -> str:
    return re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []

    @classmethod
    def of(cls, path: Path) -> _Anchors:
        parser = cls()
        parser.feed(path.read_text("utf-8"))
        return parser

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.update(value for key in ("id", "name") if (value := given.get(key)))
        link = given.get("href" if tag == "a" else "src")
        if link:
            self.links.append(link)


if __name__ == "__main__":
    # Types that are imported for type checkers only are shown as they are written.
    warnings.filterwarnings("ignore", message="Error parsing type annotation", category=UserWarning)
    directory = Path("site")
    count = build(directory)
    lost = broken_links(directory)
    print(f"{count} pages in {directory}/, open {directory}/index.html")
    if lost:
        sys.exit("links that lead nowhere:\n  " + "\n  ".join(lost))
