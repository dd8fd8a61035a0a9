"""What the site is built from beside its pages: formulas as MathML, tables of popgd's own settings
and public names, and the tables and pictures in figures/.
"""

import html
import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from math_core import LatexToMathML
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "figures"
#: Pages that are files of the repository, by where they stand there.
PAGES = {
    "tables/stability.md": "figures/stability.md",
    "tables/stability_torch.md": "figures/stability_torch.md",
    "tables/figures.md": "figures/README.md",
    "tables/layers.md": "figures/layers.md",
    "tables/calibration.md": "figures/calibration.md",
    "tables/mutation.md": "figures/mutation.md",
    "tables/explore.md": "figures/explore.md",
    "tables/sweep.md": "figures/sweep.md",
    "tables/benchmark.md": "figures/benchmark.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
#: Where a link of one of those files leads on the site.
LINKS = {Path(file).name: page for page, file in PAGES.items()}
MACROS = {"E": r"\mathbb{E}", "R": r"\mathbb{R}", "norm": r"\lVert #1\rVert"}
FONT = "assets/math.woff"
_formula = LatexToMathML(macros=MACROS, continue_on_error=False)
_glyphs: set[str] = set()


def on_files(files: Any, config: Any) -> Any:
    """Pages from elsewhere in the repository, the pictures, and the font of the formulas."""
    for page, file in PAGES.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        # Wide tables take the room of the table of contents.
        front = "---\nhide: [toc]\n---\n\n" if page.startswith("tables/") else ""
        files.append(File.generated(config, page, content=front + _relinked(text, page)))
    for picture in sorted(FIGURES.glob("*.png")):
        name = f"figures/{picture.name}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    # Its glyphs are known after the last page: `on_post_build` writes it.
    files.append(File.generated(config, FONT, content=b""))
    _glyphs.clear()
    return files


def _relinked(text: str, page: str) -> str:
    """The same with its links as seen from the page."""
    up = "../" * page.count("/")

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if target in LINKS:
            return f"{found[1]}({up}{LINKS[target]})"
        if target.endswith(".png"):
            return f"{found[1]}({up}figures/{Path(target).name})"
        return found[0]

    return re.sub(r"(\[[^\]]*\])\(([^)\s]+)\)", link, text)


def on_page_markdown(text: str, page: Any, config: Any, files: Any) -> str:
    """Marks of the form <!-- popgd: name argument --> give way to what popgd knows of itself."""
    text = re.sub(r"<!-- popgd: (\w+) ?(.*?) -->", lambda m: MADE[m[1]](*m[2].split()), text)
    if page.file.src_uri in PAGES:
        note = f"This page is `{PAGES[page.file.src_uri]}` of the repository."
        title, _, rest = text.lstrip().partition("\n")
        text = f"{title}\n\n*{note}*\n{rest}"
    return text


def on_page_content(text: str, page: Any, config: Any, files: Any) -> str:
    """Formulas as MathML; wide tables in a box that scrolls."""
    text = re.sub(
        r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', _mathml, text, flags=re.DOTALL
    )
    # A comma after a formula does not begin a line.
    text = re.sub(r"(<math>(?:(?!</math>).)*</math>)([,.;:)?]+)",
                  r'<span class="together">\1\2</span>', text, flags=re.DOTALL)  # fmt: skip
    if left := re.search(r"arithmatex.{80}", text, flags=re.DOTALL):
        raise ValueError(f"{page.file.src_uri}: a formula is left: {left[0]}")
    return text


def _mathml(found: re.Match[str]) -> str:
    source = html.unescape(found[2]).strip()
    if found[1] == "div":  # parts that may stand below each other on a narrow screen
        parts = " ".join(_made(part, True) for part in _parts(source))
        return f'<div class="formula" tabindex="0">{parts}</div>'
    return _made(source, False)


def _parts(source: str) -> list[str]:
    """A displayed formula at each \\qquad, but within braces and environments."""
    parts, depth = [""], 0
    for piece in re.split(r"(\\qquad\b|\\begin\b|\\end\b|\\[{}]|[{}])", source):
        depth += {"{": 1, "}": -1, "\\begin": 1, "\\end": -1}.get(piece, 0)
        if piece == "\\qquad" and not depth:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _made(source: str, block: bool) -> str:
    try:
        made = _formula.convert_with_local_state(source, displaystyle=block)
    except Exception as error:
        raise ValueError(f"{source}: {error}") from None
    made = made.replace("&ApplyFunction;", "&#x2061;")
    _glyphs.update(html.unescape(re.sub(r"<[^>]*>", "", made)))
    return made


def on_post_build(config: Any) -> None:
    """The font of the formulas, STIX Two Math (SIL Open Font License), with the glyphs in use."""
    import ziamath
    from fontTools import subset
    from fontTools.ttLib import TTFont

    font = TTFont(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf")
    # Single letters are set in mathematical italics.
    italics = {chr(0x1D434 + i) for i in range(52)} | {chr(0x1D6E2 + i) for i in range(58)}
    wanted = _glyphs | italics | set("0123456789ℎ√")
    # Its names hold its licence.
    options = subset.Options(layout_features=["*"], name_IDs=["*"], notdef_outline=True)
    worker = subset.Subsetter(options)
    worker.populate(unicodes=sorted(ord(glyph) for glyph in wanted))
    worker.subset(font)
    font.flavor = "woff"
    font.save(Path(config["site_dir"]) / FONT)


@cache
def _popgd() -> Any:
    return importlib.import_module("popgd")


def _table(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    rows = [list(heads)]
    rows += [["---"] * len(rows[0]), *map(list, lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _plain(text: str) -> str:
    """A text of popgd's as it is, in Markdown and within a table."""
    return re.sub(r"([\\*_|>\[\]`])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _value(value: object) -> str:
    """A default as it is written on the command line."""
    from popgd.theorem.readers import word

    return "–" if value is None else f"`{word(value)}`"


def _options(options: Mapping[str, Any]) -> str:
    lines = ([f"`{n}`", _plain(o.help), _value(o.default)] for n, o in options.items())
    return _table(("setting", "what it is", "default"), lines)


def common() -> str:
    """The settings of every run."""
    from popgd.theorem.settings import TABLE

    return _options({name: option for name, option in TABLE.items() if name != "theorem"})


def words(name: str) -> str:
    """What the command line understands beside settings."""
    from popgd.theorem import settings

    lines = ([f"`{word}`", _plain(help)] for word, help in getattr(settings, name).items())
    return _table(("word", "what it does"), lines)


def theorems() -> str:
    """Every theorem of every paper: what it states, and the settings it declares."""
    from popgd.theorem.registry import papers
    from popgd.theorem.settings import TABLE

    parts = []
    for paper, group in papers().items():
        parts.append(f"## {_plain(paper)}\n")
        for theorem in group:
            parts.append(f"### `theorem={theorem.name}`\n\n*{_plain(theorem.statement)}*\n")
            parts.append(f"Source: {_plain(theorem.source)}.\n")
            other = {n: TABLE[n]._replace(default=v) for n, v in theorem.defaults.items()
                     if n in TABLE and v != TABLE[n].default}  # fmt: skip
            own = {**theorem.declared, **other}
            parts.append(_options(own) if own else "It has no settings of its own.\n")
    return "\n".join(parts)


def names(module: str, level: str = "2") -> str:
    """The reference of everything that a module exports."""
    found = importlib.import_module(module)
    functions = [name for name in found.__all__ if name != "judge_path" or module == "popgd.claims"]
    lines = []
    for name in functions:
        path = f"{module}.{name}"
        if path == "popgd.claims.judge_path":
            path = "popgd.theorem.recorded.judge_path"
        lines.append(f"::: {path}\n    options:\n      heading_level: {level}\n")
    return "\n".join(lines)


def numbers(file: str) -> str:
    """The numbers of a JSON file of figures/, as a table."""
    lines = []
    for name, value in json.loads((FIGURES / file).read_text(encoding="utf-8")).items():
        if isinstance(value, dict):
            lines += [[f"{name} {key}", str(item)] for key, item in value.items()]
        else:
            lines.append([name, str(value)])
    return _table(("what", "how many"), lines)


def line(file: str, number: str) -> str:
    """A line of a file of the repository, counted from 1."""
    return (ROOT / file).read_text(encoding="utf-8").splitlines()[int(number) - 1]


def table(file: str, number: str) -> str:
    """The table of a file of the repository, counted from 1."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    return found[int(number) - 1]


def verdicts(file: str) -> str:
    """Judged numbers of a JSON file of figures/, as a table."""
    rows = json.loads((FIGURES / file).read_text(encoding="utf-8"))
    cell = lambda x: f"{x:.4g}" if isinstance(x, float) else f"{x:,}" if isinstance(x, int) else x
    heads = [name for name in rows[0] if name != "claimed"]
    return _table(heads, ([cell(row[name]) for name in heads] for row in rows))


MADE: dict[str, Callable[..., str]] = {
    "common": common,
    "words": words,
    "theorems": theorems,
    "names": names,
    "numbers": numbers,
    "line": line,
    "table": table,
    "verdicts": verdicts,
}
