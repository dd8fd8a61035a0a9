"""`report=DIR`: a finished run as one hands it in."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from popgd.problem.errors import SettingError
from popgd.runs import store
from popgd.theorem import written
from popgd.theorem.readers import nearest

FORMATS = ("html", "latex", "markdown")


def handed(directory: Path, words: Mapping[str, str]) -> Iterator[str]:
    """Write what the words ask for; the lines to print. Raises SettingError."""
    if not (directory / store.REPORT).exists():
        raise SettingError(f"report={directory}: no finished run is there; name another directory")
    content = store.read(directory / store.REPORT)
    try:
        yield from _handed(content, directory, words)
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingError(
            f"{directory / store.REPORT} is damaged ({error!r}): name another directory"
        ) from None


def _handed(content: Mapping[str, Any], directory: Path, words: Mapping[str, str]) -> Iterator[str]:
    if "explain" in words:
        ids = [claim["id"] for claim in (*content["claims"], *content["self_checks"])]
        wanted = words["explain"]
        if wanted not in ids:
            known = f"{nearest(wanted, ids)}; it has {', '.join(ids) or 'no claims'}"
            raise SettingError(f"explain={wanted}: no claim of this run is called that{known}")
        yield written.explained(content, wanted)
        if "format" not in words:
            return
    form = words.get("format", "html")
    if form not in FORMATS:
        raise SettingError(
            f"format={form}: one of {', '.join(FORMATS)} was wanted{nearest(form, FORMATS)}"
        )
    pictures = {file.stem: file.read_bytes() for file in sorted(directory.glob("*.png"))}
    files = {
        "html": {"report.html": lambda: written.page(content, pictures)},
        "markdown": {"report.md": lambda: written.markdown(content)},
        "latex": {
            "report.tex": lambda: written.latex(content),
            "report.bib": lambda: written.bibtex(content),
        },
    }[form]
    out = Path(words.get("out") or directory)
    texts = {name: text().encode() for name, text in files.items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        store.write(out / name, text)
        yield f"written to {out / name}"
