"""The data of the paper's figures, at a little training: what is drawn, not how."""

import json

import gallery
import numpy as np
import pytest
import trained
from trained import MODELS, QUICK, TASKS, test_point, train

import popgd.papers.power_method.looping.inference

pytestmark = pytest.mark.slow
test_point.__test__ = False  # pytest takes it for a test


@pytest.fixture(scope="module")
def drawn():
    """Every figure's numbers, as a JSON file would give them back."""
    import importlib

    found = {}
    for name in gallery.NAMES:
        figure, numbers = importlib.import_module(name).draw(QUICK)
        assert len(figure.axes) >= 2
        found[name] = json.loads(json.dumps(numbers, allow_nan=False))
    return found


def runs_in(numbers):
    return [run for run in numbers.values() if isinstance(run, dict) and "train_loss" in run]


def test_every_run_is_one_of_sgd_beside_the_exact_descent(drawn):
    for name in gallery.NAMES:
        for run in runs_in(drawn[name]):
            assert run["inactive"] == 0.0, "an inactive block moved"
            assert run["step"][0] == 0 and run["step"][-1] == QUICK.iterations
            assert run["c"] == pytest.approx(np.multiply(run["a"], run["b"]), rel=1e-6, abs=0)
            assert run["c"][-1] == pytest.approx(run["c_exact"][-1], rel=0.5, abs=0)
            assert run["gap"] == pytest.approx(
                np.subtract(run["test_loss"], run["train_loss"]), rel=1e-6, abs=0
            )
            assert all(error > 0 for error in run["gap_stderr"])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("figure_1", 2),
        ("figure_2", 6),
        ("figure_3", 2),
        ("figure_4", 2),
        ("figure_6", 2),
        ("figure_7", 2),
    ],
)
def test_each_figure_has_its_runs(drawn, name, count):
    assert len(runs_in(drawn[name])) == count


def test_heat_maps_have_only_active_blocks(drawn):
    for name in ("figure_1", "figure_4", "figure_6", "figure_7"):
        for run in runs_in(drawn[name]):
            P, Q = np.array(run["P"]), np.array(run["Q"])
            d = run["d"]
            assert (
                np.all(P[:d] == 0)
                and np.all(P[:, d:] == 0)
                and np.all(Q[d:] == 0)
                and np.all(Q[:, :d] == 0)
            )
            assert np.trace(P[d:, :d]) / d == pytest.approx(run["a"][-1], rel=1e-6, abs=0)
            assert np.trace(Q[:d, d:]) / d == pytest.approx(run["b"][-1], rel=1e-6, abs=0)


def test_losses_start_at_the_population_loss(drawn):
    for name in ("figure_2", "figure_3"):
        for run in runs_in(drawn[name]):
            assert run["test_loss"][0] == pytest.approx(run["exact"]["loss"][0], rel=0.2, abs=0)


def test_only_the_model_with_layer_norm_falls_far(drawn):
    for task in TASKS:
        last = {
            model: drawn["figure_2"][f"{task} {model}"]["train_loss"][-1]
            for model in MODELS
            if model != "looped"
        }
        assert last["LN"] < 0.5 * min(last["no LN, norm."], last["no LN, unnorm."])


def test_angles_fall_by_gamma(drawn):
    """The exact curves of figure 5 end as gamma^k, gamma of the c they state; the measured ones
    begin with them.
    """
    for task in TASKS:
        S = popgd.papers.power_method.looping.inference.split(test_point(task)[0])
        for key, found in drawn["figure_5"].items():
            if key.startswith(f"{task} LN"):
                factor = found["sin_exact"][-1] / found["sin_exact"][-2]
                assert factor == pytest.approx(
                    np.exp(
                        popgd.papers.power_method.looping.inference.log_factor(S, found["c_exact"])
                    ),
                    rel=0.1,
                    abs=0,
                )
                assert found["sin"][0] == pytest.approx(found["sin_exact"][0], rel=0.2, abs=0)


def test_fixed_points(drawn):
    for name in ("figure_6", "figure_7"):
        run = drawn[name]["no LN, unnorm."]
        assert run["exact"]["c"][-1] == pytest.approx(run["c_star"], rel=1e-2, abs=0)


def test_a_run_is_trained_once():
    assert train("LN", 2, QUICK) is train("LN", 2, QUICK, law=TASKS[2])


def test_epochs_are_forty_times_the_iterations():
    assert gallery.sizes(False, True).iterations == 40 * trained.FULL.iterations
