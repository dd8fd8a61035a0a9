"""float64, shapes in signatures checked by beartype, and one compilation cache for the whole
session.
"""

import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault(
    "TF_CPP_MIN_LOG_LEVEL", "3"
)  # the compilation cache of some jax versions is loud

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "popgd"
#: 0-d results are NumPy scalars (curve); c may be a plain number (layer, looped); no arrays, but
#: every word of popgd (code).
UNCHECKED = {
    "popgd.runs.code",
    "popgd.papers.power_method.curve",
    "popgd.papers.power_method.spectra",
    "popgd.papers.power_method.quadrature.layer",
    "popgd.papers.power_method.quadrature.looped",
}
_names = {
    "popgd." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts)
    for p in PACKAGE.rglob("*.py")
    if p.stem != "__init__"
}
install_import_hook(sorted(_names - UNCHECKED), "shapes.checked")

jax.config.update("jax_enable_x64", True)
# Compilation takes as long as it takes: a deadline would fail on a busy machine.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
# Shared by the workers of one session and by the processes that their tests start. Keyed by the
# compiled program, so that a mutant never meets the code of the original.
_cache = (
    Path(tempfile.gettempdir())
    / f"popgd-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
)
_options = {
    "jax_compilation_cache_dir": str(_cache),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
for _name, _value in _options.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)


from popgd.papers.power_method import slopes  # noqa: E402

# Sampled slopes to a percent take a second each, and a test has hundreds: `to_a_percent` is for
# what is about them.
FINE, slopes.RESOLUTION = slopes.RESOLUTION, 0.1


@pytest.fixture
def to_a_percent(monkeypatch):
    monkeypatch.setattr(slopes, "RESOLUTION", FINE)


#: The longest files first, so that the workers end together.
LONGEST = (
    "test_theory",
    "test_calibration",
    "test_mutants",
    "test_quadrature",
    "test_resume",
    "test_recursion",
    "test_run",
)
#: Files that share the judged runs of `runs.py`, which take long: one worker has both.
TOGETHER = (
    "tests/test_theory.py",
    "tests/test_calibration.py",
    "tests/test_mutants.py",
    "tests/test_vacuous.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One file, one worker, but for those that stay TOGETHER."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return TOGETHER[0] if file in TOGETHER else file

    return ByFile(config, log)


#: Files and tests about the last digits run the code that a user's run has, and so do the processes
#: that test_resume starts and the slow tests, which spend their time in what was compiled
#: (stability of random spectra: 70 s or over 10 minutes); the others spend most of their time in
#: the compiler, so their code is compiled with most optimisations off.
AS_USERS_DO = {
    "test_backend",
    "test_recursion",
    "test_reference_values",
    "test_looped_bound_is_honest_on_hard_cases",
    "test_layer_bound_is_honest_on_hard_cases",
    "test_plane_closed_forms",
}


def pytest_runtest_setup(item):
    as_users_do = {item.path.stem, item.originalname} & AS_USERS_DO or item.get_closest_marker(
        "slow"
    )
    jax.config.update("jax_disable_most_optimizations", not as_users_do)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(_cache, ignore_errors=True)


@pytest.fixture
def fresh_jit():
    """For monkey-patched code: nothing compiled before is used in the test, nothing compiled in it
    is used after.
    """
    jax.clear_caches()
    yield
    jax.clear_caches()
