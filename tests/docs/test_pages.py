"""Every block of the README and of the guide runs, and prints what its page says; every link and every name leads somewhere."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from seedbed import TinyLM
from tests.docs.pages import GUIDE, KINDS, PAGES, Outcome, blocks_of, run_page, serving

ids = [page.stem for page in PAGES]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_NAME = re.compile(r"`(seedbed(?:\.\w+)+)`")


@pytest.fixture(scope="module")
def url():
    with serving(TinyLM()) as url:
        yield url


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_block_does_what_its_page_says(page: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    for outcome in run_page(page, tmp_path, url):
        assert outcome.is_as_said, f"{outcome.where}\nthe page says:\n{outcome.want}\nit prints:\n{outcome.have}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_block_is_of_a_kind_that_is_run(page: Path) -> None:
    blocks = blocks_of(page)

    assert {block.kind for block in blocks} <= KINDS
    assert page.read_text("utf-8").count("```") == 2 * len(blocks)
    for before, block in zip([None, *blocks], blocks, strict=False):
        if block.kind == "text":
            assert before is not None, block
            assert before.kind == "python", f"{page.name}:{block.line}: this is what no program prints"
            assert before.file is None, block
        if block.kind in ("toml", "yaml", "json"):
            assert block.file, f"{page.name}:{block.line}: it names no file"


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are made of their texts."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_to_a_file_or_heading_that_is_there(page: Path) -> None:
    for found in _LINK.finditer(page.read_text("utf-8")):
        target = found[1] or found[2]
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_name_in_a_page_is_there(page: Path) -> None:
    for name in _NAME.findall(page.read_text("utf-8")):
        resolve(name)


def resolve(name: str) -> object:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_the_index_links_every_page_of_the_guide() -> None:
    linked = {target for target, _ in _LINK.findall((GUIDE / "index.md").read_text("utf-8"))}

    assert {page.name for page in GUIDE.glob("*.md")} - {"index.md"} <= linked


@pytest.mark.parametrize(
    ("want", "have", "same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\nc\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nb\nc\n", False),
        ("1 passed in ...\n", "1 passed in 0.1s\n", True),
        ("1 passed in ...\n", "1 passed in 0.1s\nmore\n", False),
        ("took ... s\n", "took 3 s\n", True),
        ("...\n", "a\nb\n", True),
        ("", "a\n", False),
    ],
)
def test_dots_stand_for_lines_or_for_what_is_in_one(want: str, have: str, same: bool) -> None:
    assert Outcome(want, have, "here").is_as_said == same


def test_the_workflow_is_one_that_github_takes() -> None:
    yaml = pytest.importorskip("yaml")
    (text,) = [block.text for block in blocks_of(GUIDE / "regression-gate.md") if block.kind == "yaml"]
    workflow = yaml.safe_load(text)

    assert set(workflow) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads "on" as true
    (job,) = workflow["jobs"].values()
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    assert "runs-on" in job
