"""The programs in experiments/ by themselves: in these tests alone float64 is on before they are
imported, and nothing else tells when a module that they need is gone.
"""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import benchmark_process
import benchmark_structured
import pytest

EXPERIMENTS = Path(benchmark_process.__file__).parent
SCRIPTS = sorted(EXPERIMENTS.rglob("*.py"))
#: Those that need what a plain installation has not.
NEEDS = {"digits": "sklearn", "benchmark_gradient": "torch", "stability_torch": "torch"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_can_be_started(script, tmp_path):
    if script.stem in NEEDS:
        pytest.importorskip(NEEDS[script.stem])
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='started')"
    path = [EXPERIMENTS.parent, EXPERIMENTS, EXPERIMENTS / "validation"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    environment.pop("JAX_ENABLE_X64", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [benchmark_process.COLD, benchmark_process.MEMORY])
def test_what_a_process_of_its_own_imports_is_there(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.slow
def test_the_structured_gradient_is_measured(monkeypatch):
    monkeypatch.setattr(benchmark_structured, "SAMPLES", 2**8)
    monkeypatch.setattr(benchmark_structured, "REPEATS", 1)
    rows = benchmark_structured.measure()
    assert len(rows) == len(benchmark_structured.LAWS) * len(benchmark_structured.OBJECTIVES)
