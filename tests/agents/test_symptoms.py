"""Every rule of diagnosis on rows and episodes made for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rltool.agents.case import Case, Finding, Played
from rltool.agents.symptoms import (
    RULES,
    critic_useless,
    dropped,
    entropy_collapsed,
    evaluation_differs,
    gradient_clipped,
    never_learned,
    observations_unscaled,
    stalled,
    steps_too_far,
    time_limits,
    too_little,
    values_too_large,
)


def rows(**columns: Sequence[float]) -> list[dict[str, float]]:
    """Rows 1,000 timesteps apart; `loss` stands for `train/loss`, `returns` for the learning curve."""
    length = max(map(len, columns.values()))
    names = {"returns": "rollout/ep_rew_mean", "evaluated": "eval/mean_return"}
    made = [{"time/total_timesteps": 1_000.0 * (k + 1), "rollout/episodes": 10.0 * (k + 1)} for k in range(length)]
    for name, values in columns.items():
        for row, value in zip(made, values, strict=False):
            row[names.get(name, f"train/{name}")] = float(value)
    return made


RISING = np.linspace(10, 400, 20)
SWINGING = np.sin(np.arange(20.0))


def played(n: int = 50, **changes: Any) -> Played:
    """Five truncated episodes of a healthy agent."""
    rng = np.random.default_rng(0)
    values = {
        "observations": rng.normal(size=(n, 3)).astype(np.float32),
        "values": rng.normal(10, 1, n).astype(np.float32),
        "returns": rng.normal(10, 1, n).astype(np.float32),
        "advantages": rng.normal(size=n).astype(np.float32),
        "episode_returns": [10.0] * 5,
        "lengths": [n // 5] * 5,
        "terminated": 0,
        "values_at_truncation": np.full(5, 10, np.float32),
    }
    return Played(**values | changes)


def severity(finding: Finding | None) -> str | None:
    return finding and finding.severity


TWO_ACTIONS = gym.spaces.Discrete(2)
BOX = gym.spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("returns", "threshold", "expected"),
    [
        (RISING, None, None),
        (np.full(20, -200.0), None, "serious"),  # No goal was ever reached.
        (20 + SWINGING, None, "serious"),
        (-1_000 - RISING, None, "serious"),
        (-500 + RISING, None, None),
        (np.linspace(-20, 20, 20), None, None),
        (np.full(20, 500.0), 475, None),  # It could not rise.
        (np.linspace(86, 89, 20), 90, None),
        (np.linspace(60, 62, 20), 90, "serious"),
        (RISING[:3], None, None),  # Too little to tell.
    ],
)
def test_never_learned(returns: np.ndarray, threshold: float | None, expected: str | None) -> None:
    assert severity(never_learned(Case(rows(returns=returns), threshold=threshold))) == expected


def test_a_return_that_never_changes_asks_for_exploration() -> None:
    finding = never_learned(Case(rows(returns=np.full(20, -200.0))))
    assert finding is not None
    assert "explore more" in finding.advice
    assert finding.evidence == "-200 in the beginning, -200 at timestep 20,000"


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        (RISING, None),
        ([*RISING, 350, 340], None),
        ([*RISING, 300, 260, 260], "warning"),
        ([*RISING, 200, 50, 20, 20], "serious"),
        (20 + SWINGING, None),  # Noise around one level.
        ([4.9, 5.0, 5.5, 5.1, 5.2, 5.1], None),
    ],
)
def test_dropped(returns: Sequence[float], expected: str | None) -> None:
    finding = dropped(Case(rows(returns=returns)))
    assert severity(finding) == expected
    assert finding is None or finding.evidence.startswith("400 at timestep 20,000, ")


@pytest.mark.parametrize(
    ("returns", "threshold", "expected"),
    [
        ([*RISING, *[400] * 20], 475, "warning"),
        ([*RISING, *[400] * 20], None, None),  # 400 may be all there is.
        ([*RISING, *[400] * 20], 390, None),
        ([*RISING, *RISING + 200], 650, None),
        ([10] * 20, 475, None),  # Another finding.
    ],
)
def test_stalled(returns: Sequence[float], threshold: float | None, expected: str | None) -> None:
    assert severity(stalled(Case(rows(returns=returns), threshold=threshold))) == expected


@pytest.mark.parametrize(
    ("evaluated", "expected"), [(400, None), (350, None), (280, "warning"), (20, "serious"), (800, "note")]
)
def test_evaluation_differs(evaluated: float, expected: str | None) -> None:
    made = rows(returns=RISING)
    made[-1]["eval/mean_return"] = evaluated
    assert severity(evaluation_differs(Case(made))) == expected


def test_an_evaluation_within_its_own_deviation_does_not_differ() -> None:
    made = rows(returns=RISING)
    made[-1] |= {"eval/mean_return": 250, "eval/std_return": 200}
    assert evaluation_differs(Case(made)) is None


@pytest.mark.parametrize(
    ("entropy", "space", "returns", "threshold", "expected"),
    [
        (np.linspace(0.69, 0.2, 20), TWO_ACTIONS, RISING, None, None),
        (np.full(20, 1e-3), TWO_ACTIONS, np.full(20, 9.0), None, "serious"),
        (np.linspace(0.69, 1e-3, 20), TWO_ACTIONS, RISING, None, "warning"),  # It rose, but is it the end?
        (np.linspace(0.69, 1e-3, 20), TWO_ACTIONS, RISING, 390, "note"),
        (np.linspace(0.69, 1e-3, 20), TWO_ACTIONS, RISING[::-1], None, "serious"),
        (np.r_[np.full(10, 1e-3), np.full(10, 0.5)], TWO_ACTIONS, RISING, None, None),  # It recovered.
        (np.linspace(3, -4, 20), BOX, RISING, None, None),
        (np.linspace(3, -6, 20), BOX, RISING, None, "warning"),
    ],
)
def test_entropy_collapsed(
    entropy: np.ndarray, space: gym.Space, returns: np.ndarray, threshold: float | None, expected: str | None
) -> None:
    made = rows(entropy_loss=-entropy, returns=returns)
    assert severity(entropy_collapsed(Case(made, action_space=space, threshold=threshold))) == expected


def test_since_when_entropy_is_gone() -> None:
    finding = entropy_collapsed(Case(rows(entropy_loss=[-0.6] * 7 + [-1e-3] * 13), action_space=TWO_ACTIONS))
    assert finding is not None
    assert finding.evidence == "entropy 0.001 nats of 0.693 at most; below 0.0139 since timestep 8,000"


@pytest.mark.parametrize(
    ("kl", "clipped", "expected"),
    [(0.06, 0.3, None), (0.15, 0.2, "warning"), (0.02, 0.5, "warning"), (0.5, 0.2, "serious"), (0.1, 0.7, "serious")],
)
def test_steps_too_far(kl: float, clipped: float, expected: str | None) -> None:
    assert severity(steps_too_far(Case(rows(approx_kl=[kl] * 20, clip_fraction=[clipped] * 20)))) == expected


def test_one_large_step_among_many_is_none() -> None:
    assert steps_too_far(Case(rows(approx_kl=[5] + [0.01] * 19, clip_fraction=[0.9] + [0.1] * 19))) is None


@pytest.mark.parametrize(("explained", "expected"), [(0.9, None), (0.03, "warning"), (-0.5, "serious")])
def test_critic_useless(explained: float, expected: str | None) -> None:
    made = rows(explained_variance=[explained] * 20, value_loss=[1.0] * 20)
    assert severity(critic_useless(Case(made, played=played()))) == expected
    assert severity(critic_useless(Case(made))) == expected
    assert critic_useless(Case(made, {"credit": "baseline"})) is None


def test_a_useless_critic_is_less_serious_where_the_return_rises() -> None:
    made = rows(explained_variance=[-0.5] * 20, value_loss=[1.0] * 20, returns=RISING)
    assert severity(critic_useless(Case(made, played=played()))) == "warning"


def test_advice_leaves_out_what_is_so_already() -> None:
    made = rows(explained_variance=[-0.5] * 20)
    finding = critic_useless(Case(made, {"shared": False, "normalize_returns": True, "normalize_observations": False}))
    assert finding is not None
    assert finding.advice == "a higher --vf-coef or --learning-rate, --normalize-observations"
    pixels = played(observations=np.zeros((50, 4), np.uint8))
    finding = critic_useless(Case(made, {"shared": False, "normalize_returns": True}, pixels))
    assert finding is not None
    assert finding.advice == "a higher --vf-coef or --learning-rate"  # Pixels are not normalized.
    finding = critic_useless(Case(made, {"shared": True}))
    assert finding is not None
    assert finding.advice.endswith("learning-rate, --no-shared, --normalize-returns, --normalize-observations")


def test_a_critic_with_nothing_to_foresee_is_not_useless() -> None:
    made = rows(explained_variance=[-0.5] * 20, value_loss=[1e-6] * 20)
    assert critic_useless(Case(made, played=played())) is None


@pytest.mark.parametrize(
    ("size", "config", "expected"),
    [
        (100, {}, None),
        (500, {}, "warning"),
        (500, {"normalize_returns": True}, None),
        (500, {"credit": "baseline"}, None),
    ],
)
def test_values_too_large(size: float, config: dict[str, Any], expected: str | None) -> None:
    case = Case(rows(value_loss=[1.0]), config, played(returns=np.full(50, -size, np.float32)))
    assert severity(values_too_large(case)) == expected


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([0.3] * 20, None),
        ([2.0] * 20, None),  # Always clipped, but not by much.
        ([30.0] * 10 + [0.2] * 10, None),
        ([30.0] * 20, "warning"),
        (np.geomspace(0.1, 50, 20), "serious"),
        (np.geomspace(0.1, 3, 20), "warning"),
        (np.geomspace(1e-4, 0.3, 20), None),
    ],
)
def test_gradient_clipped(norms: Sequence[float], expected: str | None) -> None:
    assert severity(gradient_clipped(Case(rows(grad_norm=norms), {"max_grad_norm": 0.5}))) == expected


@pytest.mark.parametrize(
    ("scale", "shift", "expected"),
    [(1, 0, None), (5, 0, None), (20, 0, "warning"), (1, 50, "warning"), (1, -5_000, "serious"), (1e-5, 0, "warning"),
     (0, 0, None)],
)  # fmt: skip
def test_observations_unscaled(scale: float, shift: float, expected: str | None) -> None:
    observations = played().observations.copy()
    observations[:, 1] = observations[:, 1] * scale + shift
    assert severity(observations_unscaled(Case([], played=played(observations=observations)))) == expected
    normalized = Case([], {"normalize_observations": True}, played(observations=observations))
    assert observations_unscaled(normalized) is None


def test_bytes_have_no_scale() -> None:
    assert observations_unscaled(Case([], played=played(observations=np.full((50, 4), 200, np.uint8)))) is None


@pytest.mark.parametrize(
    ("changes", "config", "name", "expected"),
    [
        ({}, {}, "time-limit-cuts", "note"),
        ({}, {"credit": "baseline"}, "time-limit-cuts", "note"),
        ({"values_at_truncation": np.full(5, 0.5)}, {}, "time-limit-leaks", "warning"),
        ({"values_at_truncation": np.empty(0), "terminated": 5}, {}, "time-limit-as-end", "warning"),
        ({"values_at_truncation": np.empty(0), "terminated": 5, "lengths": [3, 4, 5, 6, 7]}, {}, None, None),
        ({"values_at_truncation": np.empty(0), "terminated": 4}, {}, "episodes-endless", "warning"),
    ],
)
def test_time_limits(changes: dict[str, Any], config: dict[str, Any], name: str | None, expected: str | None) -> None:
    finding = time_limits(Case([], config, played(**changes)))
    assert severity(finding) == expected
    assert (finding and finding.name) == name


def test_too_little() -> None:
    assert severity(too_little(Case([]))) == "warning"
    assert severity(too_little(Case(rows(returns=RISING[:3])))) == "warning"
    assert too_little(Case(rows(returns=RISING))) is None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_rule_needs_more_than_there_is(rule: Callable[[Case], Finding | None]) -> None:
    for case in (Case([]), Case(rows(returns=[1.0])), Case([{"time/total_timesteps": 5.0}] * 9)):
        finding = rule(case)
        assert finding is None or finding.name == "too-little"
