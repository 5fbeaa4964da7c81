"""README.md and docs/: their size, their links, and the flags of their commands."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from config import Options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRAIN = re.compile(r"python train\.py([^`#&;\n]*)")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200 and len(text.split()) <= 2200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", without_code(page.read_text())):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_of_train_exists(page):
    known = {"--" + f.name.replace("_", "-") for f in fields(Options)} | {"--resume", "--help"}
    for arguments in TRAIN.findall(page.read_text()):
        for flag in re.findall(r"--[a-z][a-z-]*", arguments):
            assert flag in known or flag.replace("--no-", "--") in known, flag
