"""A report as one hands it in: Markdown, LaTeX, a page of HTML; and one claim in plain words.

All of them take what report.json holds.
"""

import base64
import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from popgd.theorem.readers import word
from popgd.theorem.registry import called

#: Columns of the tables, as they are called in the report.
COLUMNS = ("predicted", "measured", "error", "allowance", "detectable", "resolution")
_ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")
#: What LaTeX reads otherwise, and how it is told not to.
_LATEX = {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}  # fmt: skip
_COLOURS = {"SUPPORTED": "#1a7f37", "REFUTED": "#cf222e", "NOT TRUSTED": "#cf222e"}
_STYLE = """
.popgd { font: 15px/1.45 system-ui, sans-serif; max-width: 76em; }
.popgd table { border-collapse: collapse; margin: 1em 0; }
.popgd th, .popgd td { padding: .25em .7em; border-bottom: 1px solid #8885; text-align: left;
  vertical-align: top; }
.popgd th:not(:first-child):not(:last-child) { text-align: right; }
.popgd td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.popgd .scroll { overflow-x: auto; }
.popgd img { max-width: 100%; height: auto; }
"""


def number(value: float | None, digits: int = 10) -> str:
    """As the tables show it; a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def _numbers(claim: Mapping[str, Any]) -> list[str]:
    return [number(claim[name], 10 if name in ("predicted", "measured") else 2) for name in COLUMNS]


def _tables(content: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    yield "claim", content["claims"]
    if content["self_checks"]:
        yield "popgd's check of itself", content["self_checks"]


def settings(content: Mapping[str, Any]) -> str:
    """All settings as they are typed."""
    return " ".join(f"{name}={word(x)}" for name, x in content["settings"].items() if x is not None)


def versions(content: Mapping[str, Any]) -> str:
    """popgd, its revision, JAX, NumPy, Python and the machine."""
    of = content["environment"]
    names = [f"{name} {of[name]}" for name in ("popgd", "jax", "jaxlib", "numpy", "python")]
    revision = [f"revision {of['revision'][:10]}"] if of.get("revision") else []
    return ", ".join([*names, *revision, str(of["machine"]), *of["devices"]])


def _papers(content: Mapping[str, Any]) -> list[str]:
    """The numbers of the source's papers at arXiv."""
    return list(dict.fromkeys(_ARXIV.findall(content["source"])))


def _heading(content: Mapping[str, Any]) -> str:
    reason = f": {content['reason']}" if content["reason"] else ""
    return f"{called(content['theorem'])}: {content['outcome']}{reason}"


def _left(content: Mapping[str, Any]) -> Iterator[str]:
    """Why claims are not SUPPORTED, and what would settle them."""
    for _, judged in _tables(content):
        for claim in judged:
            if claim["outcome"] != "SUPPORTED":
                yield f"{claim['id']}: {claim['outcome']}. {claim['statement']}. {claim['reason']}"
    for cut in content.get("unfinished", []):
        yield f"unfinished: {cut['samples']:.2g} samples would settle {cut['what']}"


def markdown(content: Mapping[str, Any]) -> str:
    """Tables for a page or an issue."""
    safe = lambda text: re.sub(r"([\\|*_<`])", r"\\\1", str(text).replace("\n", " "))
    above = (content["statement"], content["source"])
    lines = [f"## {safe(_heading(content))}", "", *(f"{safe(text)}\n" for text in above)]
    for kind, judged in _tables(content):
        lines += ["| " + " | ".join((kind, "statement", *COLUMNS, "outcome")) + " |",
                  "|---|---|" + "---:|" * len(COLUMNS) + "---|"]  # fmt: skip
        for claim in judged:
            cells = (safe(claim["statement"]), *_numbers(claim), claim["outcome"])
            lines.append(f"| `{claim['id']}` | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [f"* {safe(text)}" for text in _left(content)]
    return "\n".join([*lines, "", f"`{settings(content)}`", "", versions(content), ""])


def in_latex(text: str) -> str:
    """A text in LaTeX; letters that pdflatex lacks are named in ASCII."""
    plain = "".join(_LATEX.get(letter, letter) for letter in str(text))
    return plain.encode("ascii", "backslashreplace").decode().replace("\\x", r"\textbackslash{}x")


def latex(content: Mapping[str, Any]) -> str:
    """A table of the claims for \\input: it needs the package booktabs."""
    label = re.sub(r"[^A-Za-z0-9.]+", "-", content["theorem"])
    cited = "".join(f" \\cite{{arXiv{number}}}" for number in _papers(content))
    caption = (
        f"{in_latex(_heading(content))}. {in_latex(content['statement'])} "
        f"({in_latex(content['source'])})"
        f"{cited}. By popgd \\cite{{popgd}} with \\texttt{{{_breakable(settings(content))}}}; "
        f"{in_latex(versions(content))}."
    )
    rows = [
        " & ".join(
            [in_latex(claim["statement"]), *_numbers_in_latex(claim), claim["outcome"].lower()]
        )
        + r" \\"
        for claim in content["claims"]
    ]
    return "\n".join([
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        "\\small",
        f"\\caption{{{caption}}}",
        f"\\label{{tab:popgd-{label}}}",
        "\\begin{tabular}{p{0.45\\linewidth}rrrl}",
        "\\toprule",
        "claim & predicted & measured & error & outcome \\\\",
        "\\midrule",
        *rows,
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
        "",
    ])  # fmt: skip


def _breakable(text: str) -> str:
    """Settings in LaTeX, which may break lines after commas."""
    return in_latex(text).replace(",", ",\\allowbreak{}")


def _numbers_in_latex(claim: Mapping[str, Any]) -> list[str]:
    """predicted, measured and error in mathematics."""
    columns = (("predicted", 10), ("measured", 10), ("error", 2))
    return [scientific(claim[name], digits) for name, digits in columns]


def scientific(value: Any, digits: int = 10) -> str:
    """A number in mathematics, or -- for none."""
    mantissa, _, power = number(value, digits).partition("e")
    shown = f"{mantissa} \\cdot 10^{{{int(power)}}}" if power else mantissa
    return "--" if shown == "-" else f"${shown}$"


def bibtex(content: Mapping[str, Any]) -> str:
    """Entries for popgd and for each paper of the source, by its number."""
    version = content["environment"]["popgd"]
    entries = [
        f"@software{{popgd,\n  title = {{popgd: checks training-dynamics theory}},\n"
        f"  author = {{{{The popgd authors}}}},\n  version = {{{version}}},\n}}\n"
    ]
    entries += [
        f"@misc{{arXiv{n},\n  title = {{arXiv:{n}}},\n  eprint = {{{n}}},\n"
        "  archivePrefix = {arXiv},\n}\n"
        for n in _papers(content)
    ]
    return "\n".join(entries)


def fragment(content: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """HTML for a page that is there already, as a notebook's; pictures are PNG, by name."""
    safe = lambda text: html.escape(str(text))
    parts = [f"<style>{_STYLE}</style><div class='popgd'><h2>{safe(_heading(content))}</h2>",
             f"<p>{safe(content['statement'])}</p><p>{safe(content['source'])}</p>"]  # fmt: skip
    for kind, judged in _tables(content):
        head = "".join(f"<th>{name}</th>" for name in (kind, *COLUMNS, "outcome"))
        parts.append(f"<div class='scroll'><table><tr>{head}</tr>")
        for claim in judged:
            cells = "".join(f"<td class='number'>{text}</td>" for text in _numbers(claim))
            colour = _COLOURS.get(claim["outcome"], "#9a6700")
            parts.append(
                f"<tr><td title='{safe(claim['reason'])}'><b>{safe(claim['id'])}</b><br>"
                f"{safe(claim['statement'])}</td>{cells}"
                f"<td style='color:{colour}'><b>{claim['outcome']}</b></td></tr>"
            )
        parts.append("</table></div>")
    left = "".join(f"<li>{safe(text)}</li>" for text in _left(content))
    parts.append(f"<ul>{left}</ul>" if left else "")
    for name, picture in pictures.items():
        data = base64.b64encode(picture).decode()
        parts.append(f"<p><img alt='{safe(name)}' src='data:image/png;base64,{data}'></p>")
    parts.append(f"<p><code>{safe(settings(content))}</code></p><p>{safe(versions(content))}</p>")
    return "".join([*parts, "</div>"])


def page(content: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """One page of HTML with all that it needs, and the reasons of every claim."""
    reasons = "".join(
        f"<h3>{html.escape(claim['id'])}</h3><p>{html.escape(explained(content, claim['id']))}</p>"
        for _, judged in _tables(content)
        for claim in judged
    )
    title = html.escape(f"{called(content['theorem'])}: {content['outcome']}")
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'></head><body>"
        f"{fragment(content, pictures)}<div class='popgd'><h2>Claim by claim</h2>{reasons}</div>"
        "</body></html>\n"
    )


def explained(content: Mapping[str, Any], id: str) -> str:
    """One claim in plain words: what is predicted and by whom, what was measured and how, what each
    number is, and what would refute it. Raises KeyError if there is none of this id.
    """
    claim = {c["id"]: c for _, judged in _tables(content) for c in judged}[id]
    predicted, measured, error, allowance, detectable, resolution = _numbers(claim)
    whose = {"paper": "stated there", "derived": "derived by popgd from what is stated there"}
    kind = "popgd's check of itself" if claim["self_check"] else "a claim of the theorem"
    parts = [
        f"{id} is {kind}: {claim['statement']}.",
        f"Its source: {claim['source']}; the prediction is {whose[claim['origin']]}.",
        f"Predicted is {predicted}, measured was {measured}.",
        f"The measured number is known to {error} (a standard error, or a bound), and {allowance} "
        "of the gap is allowed for what is not yet the limit, and for rounding.",
    ]
    if claim["detectable"] is not None and claim["resolution"] is not None:
        parts.append(
            f"A gap of {detectable} would have been caught with probability 0.99; the claim needs "
            f"{resolution} to mean anything."
        )
    parts.append(f"How: {claim['reason'].rstrip('.')}." if claim["reason"] else "")
    ends = {
        "SUPPORTED": f"It is SUPPORTED: the gap is no more than chance and rounding explain. A "
        f"prediction that is off by {resolution} or more would be REFUTED.",
        "REFUTED": "It is REFUTED: the gap is more than chance and rounding explain.",
        "INCONCLUSIVE": "It is INCONCLUSIVE: too little can be seen to say either.",
        "NOT APPLICABLE": "It is NOT APPLICABLE: a hypothesis fails at these settings.",
    }
    return " ".join(filter(None, [*parts, ends[claim["outcome"]]]))
