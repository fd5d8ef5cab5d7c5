"""What is drawn: lines at the right places, seeds as one curve, labels that tell runs apart."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from rltool.errors import UserError
from rltool.training.config import RunConfig
from rltool.training.loggers import CSVLogger
from rltool.training.plotting import curve, draw_learning_curve, group_runs, plot_runs
from rltool.training.run import create_run


@pytest.fixture
def run_with(tmp_path):
    """`run_with(returns, seed=..., ...)` makes a run whose rows have these returns at 100, 200, ... timesteps."""

    def make(returns, seed=0, method="a2c", data="CartPole-v1", seconds_per_row=2.0, first=100, **config):
        options = RunConfig(seed=seed, run_dir=str(tmp_path / "runs"))
        run = create_run(method, data, options, {"gamma": 0.9, "credit": "baseline", **config})
        logger = CSVLogger(run.path / "metrics.csv")
        for k, value in enumerate(returns):
            row = {"time/total_timesteps": first + 100 * k, "time/time_elapsed": seconds_per_row * (k + 1)}
            logger.write(row if value is None else {**row, "rollout/ep_rew_mean": float(value)})
        return run

    return make


@pytest.fixture
def axes(monkeypatch):
    """The axes of every figure that is saved."""
    saved = []
    original = Figure.savefig

    def savefig(figure, *arguments, **options):
        saved.append(figure.axes[0])
        return original(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def test_rows_without_the_metric_are_left_out(run_with):
    steps, values = curve(run_with([None, 5, None, 7]), "rollout/ep_rew_mean")
    assert steps.tolist() == [200, 400]
    assert values.tolist() == [5, 7]


def test_seeds_are_one_group_and_options_make_others(run_with):
    runs = [
        run_with([1], seed=0),
        run_with([1], seed=1),
        run_with([1], seed=0, gamma=0.5),
        run_with([1], method="ppo"),
        run_with([1], credit="immediate"),
    ]
    groups = group_runs(runs)
    assert sorted(len(members) for members in groups.values()) == [1, 1, 1, 2]
    (label,) = [label for label, members in groups.items() if len(members) == 2]
    assert groups[label] == runs[:2]
    assert "a2c" in label
    assert any("0.5" in label for label in groups)
    assert any("immediate" in label for label in groups)
    assert len(set(groups)) == 4


def test_one_run_is_drawn_as_it_is(run_with, axes, tmp_path):
    plot_runs([run_with([1, 4, 9])], tmp_path / "a.png")
    (line,) = axes[0].lines
    assert line.get_xydata().tolist() == [[100, 1], [200, 4], [300, 9]]
    assert axes[0].get_xlabel() == "timesteps"
    assert axes[0].get_ylabel() == "rollout/ep_rew_mean"
    assert axes[0].get_title() == "CartPole-v1"


def test_several_seeds_are_their_mean_with_a_band(run_with, axes, tmp_path):
    runs = [run_with([0, 10 * s], seed=s) for s in range(4)]
    plot_runs(runs, tmp_path / "a.svg")
    (line,) = axes[0].lines
    x, y = line.get_xydata().T
    assert (x[0], x[-1]) == (100, 200)
    assert (y[0], y[-1]) == pytest.approx((0, 15))
    assert np.allclose(y, 15 * (x - 100) / 100)
    (band,) = axes[0].collections
    top = band.get_paths()[0].vertices
    assert top[:, 1].min() >= 0
    assert 15 < top[:, 1].max() <= 30
    assert "(4 seeds)" in axes[0].get_legend().get_texts()[0].get_text()


def test_iqm_over_seeds_ignores_the_outlier(run_with, axes, tmp_path):
    runs = [run_with([v, v], seed=s) for s, v in enumerate([1, 1, 1, 1, 1, 1, 1, 1000])]
    plot_runs(runs, tmp_path / "a.png", statistic="iqm")
    assert np.allclose(axes[0].lines[0].get_ydata(), 1)
    plot_runs(runs, tmp_path / "a.png", statistic="mean")
    assert np.allclose(axes[1].lines[0].get_ydata(), (7 + 1000) / 8)


def test_seconds_on_the_axis(run_with, axes, tmp_path):
    plot_runs([run_with([None, 4, 9], seconds_per_row=3.0)], tmp_path / "a.png", x="seconds")
    assert axes[0].lines[0].get_xydata().tolist() == [[6, 4], [9, 9]]
    assert axes[0].get_xlabel() == "seconds"


def test_seeds_of_different_lengths_are_drawn_where_all_have_values(run_with, axes, tmp_path):
    plot_runs([run_with([1, 1, 1], seed=0), run_with([3, 3], seed=1, first=200)], tmp_path / "a.png")
    x = axes[0].lines[0].get_xdata()
    assert (x[0], x[-1]) == (200, 300)


def test_a_metric_that_nobody_has(run_with, tmp_path):
    with pytest.raises(UserError, match="no run has the metric 'x'; there are rollout/ep_rew_mean, time/"):
        plot_runs([run_with([1])], tmp_path / "a.png", metric="x")
    assert not (tmp_path / "a.png").exists()


def test_runs_that_recorded_nothing(run_with, tmp_path):
    with pytest.raises(UserError, match=r"nothing was recorded .* see summary\.json"):
        plot_runs([run_with([])], tmp_path / "a.png")


def test_a_run_among_others_may_lack_the_metric(run_with, axes, tmp_path):
    plot_runs([run_with([1, 2]), run_with([None, None], gamma=0.1)], tmp_path / "a.png")
    assert len(axes[0].lines) == 1


def test_the_learning_curve_can_be_drawn_before_an_episode_has_ended(run_with):
    assert draw_learning_curve(run_with([None])).read_bytes().startswith(b"\x89PNG")


def test_drawing_leaves_the_users_backend_alone(run_with, tmp_path):
    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        draw_learning_curve(run_with([1, 2]))
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)


def test_a_folder_for_the_picture_is_made(run_with, tmp_path):
    out = plot_runs([run_with([1, 2])], tmp_path / "a" / "b" / "c.pdf")
    assert out.read_bytes().startswith(b"%PDF")


def test_the_environments_arguments_tell_runs_apart(run_with, tmp_path):
    one, two = run_with([1]), run_with([1])
    config = json.loads((two.path / "config.json").read_text())
    config["run"]["env_kwargs"] = {"g": 1}
    two.config = config
    assert len(group_runs([one, two])) == 2
