"""The notebooks run, and what is kept of their outputs is small and names no machine."""

from pathlib import Path

import nbformat
import pytest

HERE = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(file.name for file in HERE.glob("*.ipynb"))


def words_of(notebook):
    """What its cells printed, and the last value of each, as text."""
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return [o.get("text") or o.data.get("text/plain", "") for o in outputs if "ename" not in o]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_kept_of_it(name):
    file = HERE / name
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert file.stat().st_size < 300_000
    said = "\n".join(words_of(notebook))
    assert "REFUTED" in said and "SUPPORTED" in said
    assert not any(word in file.read_text("utf-8") for word in ("/tmp", "/root", "/home", "Error"))
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs(name):
    from nbclient import NotebookClient

    notebook = nbformat.read(HERE / name, as_version=4)
    kept = words_of(notebook)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(HERE)}}).execute()
    outcomes = lambda said: [w for text in said for w in text.split() if w.strip(":,;").isupper()]
    assert outcomes(words_of(notebook)) == outcomes(kept)
