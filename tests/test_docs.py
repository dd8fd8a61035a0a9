"""The site: it is built without a warning, loads nothing from elsewhere, leads nowhere that is not
there, and has every setting and every public name.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

import popgd
from popgd import claims, symmetry
from popgd.theorem.registry import theorems
from popgd.theorem.settings import CACHE, COMMANDS, PROCESSES, TABLE

ROOT = Path(popgd.__file__).resolve().parents[1]
NEEDED = ("mkdocs", "material", "mkdocstrings", "math_core", "ziamath")
MISSING = [name for name in NEEDED if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: pip install popgd[docs]"),
]
#: Attributes by which a page loads something, and elements that lead elsewhere instead.
LOADS, LEADS = {"src", "href", "srcset", "poster", "data"}, {"a"}


class Page(HTMLParser):
    """What a page loads, where it leads, and its anchors."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.text = file, file.read_text(encoding="utf-8")
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        for name in LOADS & given.keys():
            canonical = tag == "link" and given.get("rel") in ("canonical", "next", "prev")
            if tag in LEADS:
                self.leads.append(given[name])
            elif not canonical:
                self.loads.append(given[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(place)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return place


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    found = {file: Page(file) for file in sorted(site.rglob("*.html"))}
    assert len(found) > 20
    return found


def elsewhere(address: str) -> bool:
    return urlsplit(address).scheme in ("http", "https") or address.startswith("//")


def test_nothing_is_loaded_from_elsewhere(site, pages):
    assert [(p.file.name, a) for p in pages.values() for a in p.loads if elsewhere(a)] == []
    for sheet in site.rglob("*.css"):
        used = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", sheet.read_text())
        assert [a for pair in used for a in pair if elsewhere(a)] == [], sheet.name
    for page in pages.values():
        assert not re.findall(r"fonts\.g(?:oogleapis|static)|cdn\.|unpkg\.com", page.text)


def inner(pages: dict[Path, Page], site: Path) -> Iterator[tuple[Page, Path, str, str]]:
    """Every link that stays on the site: page, file, anchor, as it is written."""
    for page in pages.values():
        for address in (*page.leads, *page.loads):
            if address.startswith(("data:", "mailto:")) or elsewhere(address) or not address:
                continue
            path, anchor = urldefrag(address)
            path = unquote(path).partition("?")[0]
            start = site if path.startswith("/") else page.file.parent
            file = (start / path.lstrip("/")).resolve() if path else page.file.resolve()
            yield page, file / "index.html" if file.is_dir() else file, unquote(anchor), address


def test_every_link_and_anchor_exists(site, pages):
    by_file = {file.resolve(): page for file, page in pages.items()}
    broken, several = [], 0
    for page, file, anchor, address in inner(pages, site):
        several += 1
        if page.file.name == "404.html":  # is shown at any address
            continue
        there = file.is_file() and (not anchor or anchor in by_file[file].anchors)
        if not there and anchor != "__toc":
            broken.append((str(page.file.relative_to(site)), address))
    assert several > 500 and broken == []


def shown(page: Page) -> set[str]:
    """What a page has in code, at the least of its tables and headings."""
    found = re.findall(r"<code[^>]*>(.*?)</code>", page.text, flags=re.DOTALL)
    return {re.sub(r"<[^>]*>", "", text).strip() for text in found}


def test_every_setting_and_theorem_is_there(site, pages):
    page = pages[site / "settings" / "index.html"]
    every = {*TABLE, *COMMANDS, *PROCESSES, *CACHE}
    every |= {name for theorem in theorems().values() for name in theorem.declared}
    assert every - shown(page) == set()
    assert {f"theorem={name}" for name in theorems()} - shown(page) == set()


@pytest.mark.parametrize("module", [popgd, claims, symmetry])
def test_every_exported_name_is_there(module, site, pages):
    page = pages[site / "reference" / module.__name__.rpartition(".")[2] / "index.html"]
    names = {name for name in module.__all__ if name != "judge_path"}
    assert {f"{module.__name__}.{name}" for name in names} - page.anchors == set()
    if module is claims:
        assert "popgd.theorem.recorded.judge_path" in page.anchors


def test_every_claim_is_in_the_table_of_claims(site, pages):
    code = shown(pages[site / "own" / "index.html"])
    for name in set(claims.__all__) - {"judge_path"}:
        assert any(text.startswith(f"{name}(") for text in code), name


def test_no_formula_is_left_as_it_was_written(pages):
    for file, page in pages.items():
        text = re.sub(r"<(script|code|pre)\b.*?</\1>", "", page.text, flags=re.DOTALL)
        assert not re.search(r"arithmatex|\\\(|\$\$", text), file.parent.name
    assert sum("<math" in page.text for page in pages.values()) >= 10


def test_every_mark_gave_way(pages):
    for file, page in pages.items():
        text = re.sub(r"<[^>]*>", "", page.text)
        assert not re.search(r"--8\s*(<|&lt;)|popgd: \w+ .*--&gt;", text), file.parent.name


def test_paths_of_a_machine_are_nowhere(pages):
    for file, page in pages.items():
        assert not re.search(r"/(tmp|home|root|work)/\w", page.text), file.parent.name


def test_excerpts_of_outputs_do_not_begin_within_a_table():
    for page in (ROOT / "docs").rglob("*.md"):
        for name, first in re.findall(r"docs/outputs/(\w+)\.txt:(\d+)", page.read_text("utf-8")):
            line = (ROOT / "docs" / "outputs" / f"{name}.txt").read_text("utf-8").splitlines()
            assert line[int(first) - 1][0] not in "┏┃┡│└", f"{page.name}: {name}.txt:{first}"
