"""What one hands in: a stored report as HTML, LaTeX and Markdown, and a claim in plain words."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import popgd
from popgd.runs import command, store
from popgd.theorem import written

TINY = Path(__file__).parent / "data" / "tiny_run"
CONTENT = json.loads((TINY / store.REPORT).read_text())


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run with a picture, whose texts have letters that mean something elsewhere."""
    shutil.copytree(TINY, tmp_path / "run")
    content = {**CONTENT, "source": "arXiv 2606.00605 & <b>_it_</b> ~ 100 % #1 {x} \\ | é ≥"}
    (tmp_path / "run" / store.REPORT).write_text(json.dumps(content))
    (tmp_path / "run" / "growth.png").write_bytes(b"picture")
    monkeypatch.chdir(tmp_path)
    return content


def test_html_is_one_page_that_loads_nothing(run, capsys):
    assert command.main(["report=run", "format=html"]) == 0
    assert capsys.readouterr().out == "written to run/report.html\n"
    text = Path("run/report.html").read_text()
    opened = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append((tag, dict(attrs)))

    Parser().feed(text)
    assert ("img", {"alt": "growth", "src": "data:image/png;base64,cGljdHVyZQ=="}) in opened
    assert not re.search(r"(src|href)=.(?!data:)", text) and "<b>_it_" not in text
    for claim in (*run["claims"], *run["self_checks"]):
        assert text.count(claim["id"]) >= 2 and written.number(claim["measured"]) in text
    assert "seed=0" in text and "revision" in text


def test_latex_has_no_letter_that_means_something_else(run, capsys):
    assert command.main(["report=run", "format=latex", "out=paper"]) == 0
    assert capsys.readouterr().out == "written to paper/report.tex\nwritten to paper/report.bib\n"
    text = Path("paper/report.tex").read_text()
    assert text.isascii() and text.count("\\\\\n") == 1 + len(run["claims"])
    body = text.partition("\n")[2]
    assert not re.search(r"(?<!\\)[#%~]", body)
    for line in body.splitlines():
        cells = re.split(r"(?<!\\)&", line)
        assert len(cells) in (1, 5)
        if len(cells) == 5 and "$" in line:
            assert "_" not in re.sub(r"\\_|\$[^$]*\$", "", line)
    bare = re.sub(r"\\[{}]", "", body)
    assert bare.count("{") == bare.count("}")
    cited = set(re.findall(r"\\cite{(.*?)}", text))
    assert cited == set(re.findall(r"@\w+{(.*?),", Path("paper/report.bib").read_text()))
    assert cited == {"popgd", "arXiv2606.00605"}


def test_markdown_tables(run, capsys):
    assert command.main(["report=run", "format=markdown"]) == 0
    rows = [x for x in Path("run/report.md").read_text().splitlines() if x.startswith("| `")]
    assert len(rows) == len(run["claims"]) + len(run["self_checks"])
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {11}


def test_a_claim_in_plain_words(run, capsys):
    for claim in run["claims"]:
        assert command.main(["report=run", f"explain={claim['id']}"]) == 0
        said = capsys.readouterr().out
        for part in (
            claim["id"],
            claim["statement"],
            claim["source"],
            claim["outcome"],
            written.number(claim["measured"]),
            written.number(claim["resolution"], 2),
        ):
            assert part in said  # fmt: skip
    assert not list(Path("run").glob("report.[hmt]*"))


@pytest.mark.parametrize(
    "words, said",
    [
        (["report=none"], "report=none: no finished run is there"),
        (["report=run", "format=pdf"], "format=pdf: one of html, latex, markdown was wanted"),
        (["report=run", "explain=limit-d"], "did you mean limit-c?"),
        (["report=run", "seed=1"], "stands alone but for format, explain, out"),
        (["report=damaged"], "is damaged"),
    ],
)
def test_bad_words_are_one_line(run, words, said, capsys):
    shutil.copytree("run", "damaged")
    (Path("damaged") / store.REPORT).write_text(json.dumps({**run, "claims": [{"id": "x"}]}))
    assert command.main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_a_report_shows_itself():
    report = popgd.check("4.2", spectrum=[3, 1], steps=100, sampled_steps=4, batch=8, samples=64)
    assert re.fullmatch(r"Report\(Theorem 4.2: [A-Z ]+, \d+ claims, .*itself\)", repr(report))
    shown = report._repr_html_()
    assert shown.count("<tr>") == 2 + len(report.claims) + len(report.self_checks)
    assert shown.count("data:image/png") == len(report.figures()) > 3


def test_what_is_known_from_second_hand_is_called_so(capsys, monkeypatch, tmp_path):
    """In the table's title and in the verdict, on the screen and on paper."""
    from popgd.runs.screen import show

    for name, transcribed in (("gatmiry.minimiser-all", True), ("4.2", False)):
        content = {**CONTENT, "theorem": name, "outcome": "REFUTED"}
        show(content, tmp_path, False)
        said = capsys.readouterr().out
        verdict = f"Theorem {name}{', as transcribed' if transcribed else ''}: "
        assert said.count(verdict) == 2 and f"{verdict}REFUTED" in said
        assert f"{verdict}REFUTED" in written.page(content, {})
