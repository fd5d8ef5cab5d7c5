"""Robustness curves."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rltool.attacks import PGD, RandomNoise, Timed
from rltool.attacks.robustness import AgentOverShares, AgentUnderTest, Cell, Cells, Robustness, measure_robustness
from rltool.attacks.robustness_plot import draw_robustness, write_csv
from rltool.errors import UserError


def _returns(*cells: tuple[str, float, list[float]]) -> Robustness:
    return Robustness("a", "return", Cell("clean", 0.0, [10.0, 10.0]), 0.0, [Cell(*cell) for cell in cells])


def test_the_envelope_of_returns_is_the_lowest_mean_up_to_each_epsilon() -> None:
    result = _returns(
        ("pgd", 0.1, [8.0, 4.0]), ("mad", 0.1, [1.0, 9.0]), ("pgd", 0.2, [9.0, 9.0]), ("mad", 0.2, [6.0, 7.0])
    )
    assert [cell.score for cell in result.envelope] == [10, 5, 5]  # A larger ball holds the smaller one.
    assert result.envelope[1].attack == "mad"
    assert result.area == pytest.approx((0.75 * 0.1 + 0.5 * 0.1) / 0.2)
    assert result.normalized(5.0) == 0.5


def test_the_envelope_of_accuracies_is_what_every_attack_leaves() -> None:
    clean = Cell("clean", 0.0, [1.0, 1.0, 1.0, 0.0])
    cells = [
        Cell("a", 0.1, [1.0, 0.0, 1.0, 0.0]),
        Cell("b", 0.1, [0.0, 1.0, 1.0, 0.0]),
        Cell("a", 0.2, [1.0, 1.0, 1.0, 0.0]),
        Cell("b", 0.2, [1.0, 1.0, 1.0, 0.0]),
    ]
    result = Robustness("c", "accuracy", clean, 0.25, cells)
    assert [cell.score for cell in result.envelope] == [0.75, 0.25, 0.25]


def test_the_worst_tenth() -> None:
    assert Cell("a", 0.1, [float(k) for k in range(20)]).cvar == 0.5
    assert Cell("a", 0.1, [3.0, 5.0]).cvar == 3.0


class Subject:
    """Loses ten times epsilon."""

    metric = "return"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def clean(self) -> Cell:
        self.asked.append("clean")
        return Cell("clean", 0.0, [1.0, 1.0])

    def chance(self) -> float:
        self.asked.append("chance")
        return 0.0

    def parts(self, attack: Any) -> dict[str, Any]:
        return {}

    def attacked(self, name: str, epsilon: float, attack: Any) -> Cell:
        self.asked.append(f"{name} {epsilon}")
        return Cell(name, epsilon, [1 - 10 * epsilon] * 2)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "cells.json"
    noise = {"random": lambda epsilon: RandomNoise(epsilon=epsilon)}
    first, second, third = Subject(), Subject(), Subject()
    measure_robustness(first, noise, [0.05], cells=Cells(file, {"seed": 0}))  # type: ignore[arg-type]
    assert first.asked == ["chance", "clean", "random 0.05"]
    result = measure_robustness(second, noise, [0.1, 0.05], cells=Cells(file, {"seed": 0}))  # type: ignore[arg-type]
    assert second.asked == ["random 0.1"]
    assert [cell.score for cell in result.curve("random")] == [1, 0.5, 0]
    measure_robustness(third, noise, [0.05], cells=Cells(file, {"seed": 1}))  # type: ignore[arg-type]
    assert third.asked == ["chance", "clean", "random 0.05"]
    file.write_text(file.read_text()[:-20])  # Cut off.
    assert not Cells(file, {"seed": 1}).known


def test_what_an_interruption_leaves_is_kept(tmp_path: Path) -> None:
    class Interrupted(Subject):
        def attacked(self, name: str, epsilon: float, attack: Any) -> Cell:
            if epsilon > 0.1:
                raise KeyboardInterrupt
            return super().attacked(name, epsilon, attack)

    cells = partial(Cells, tmp_path / "cells.json", {})
    noise = {"random": lambda epsilon: RandomNoise(epsilon=epsilon)}
    with pytest.raises(KeyboardInterrupt):
        measure_robustness(Interrupted(), noise, [0.1, 0.2], cells=cells())  # type: ignore[arg-type]
    after = Subject()
    measure_robustness(after, noise, [0.1, 0.2], cells=cells())  # type: ignore[arg-type]
    assert after.asked == ["random 0.2"]


def test_the_parts_of_a_suite_are_kept_one_by_one(tmp_path: Path) -> None:
    class Suite(Subject):
        """Of two parts, the second of which leaves less and takes longer; the first time it is cut off."""

        left = (0.7, 0.4)
        ends = False

        def parts(self, attack: Any) -> dict[str, Any]:
            return {"one": 0, "two": 1}

        def attacked(self, name: str, epsilon: float, attack: Any) -> Cell:
            self.asked.append(f"{name} {attack}")
            if attack and self.ends:
                raise KeyboardInterrupt
            return Cell(name, epsilon, [self.left[attack]] * 2, queries=1.0 + attack, seconds=1.0 + attack)

    cells = partial(Cells, tmp_path / "cells.json", {})
    suite = {"strongest": lambda epsilon: RandomNoise(epsilon=epsilon)}
    stopped, after = Suite(), Suite()
    stopped.ends = True
    with pytest.raises(KeyboardInterrupt):
        measure_robustness(stopped, suite, [0.1], cells=cells())  # type: ignore[arg-type]
    (whole,) = measure_robustness(after, suite, [0.1], cells=cells()).cells  # type: ignore[arg-type]
    assert after.asked == ["strongest 1"]
    assert (whole.attack, whole.score, whole.queries, whole.seconds) == ("strongest", 0.4, 3.0, 3.0)


@pytest.mark.parametrize("epsilons", [[], [0.0, 0.1], [-0.1], [float("nan")], [float("inf")]])
def test_epsilons_that_will_not_do(epsilons: list[float]) -> None:
    with pytest.raises(UserError, match="epsilon"):
        measure_robustness(Subject(), {"pgd": lambda epsilon: PGD(epsilon=epsilon)}, epsilons)  # type: ignore[arg-type]


def test_a_frontier_over_shares(tmp_path: Path) -> None:
    from rltool.agents import PPO

    agent = PPO("CartPole-v1", num_envs=8, num_steps=32).learn(2_048)
    subject = AgentOverShares(agent, "CartPole-v1", episodes=4)
    attacks: dict[str, Any] = {
        "random": lambda share: RandomNoise(epsilon=0.3),
        "timed": lambda share: Timed(attack=RandomNoise(epsilon=0.3), budget=share),
    }
    result = measure_robustness(subject, attacks, [0.25, 1.0], axis="share")
    shares = {name: [cell.attacked_share for cell in result.curve(name)[1:]] for name in attacks}
    assert shares["random"] == [pytest.approx(0.25, abs=0.15), 1]
    assert 0 < shares["timed"][0] < shares["timed"][1] == 1
    assert result.curve("timed")[2].scores == result.curve("random")[2].scores  # Always is always.
    assert {row["share"] for row in result.rows()} == {0, 0.25, 1}
    assert "attacked_share" in next(result.rows())
    with pytest.raises(UserError, match="at most 1"):
        measure_robustness(subject, attacks, [0.5, 2.0], axis="share")


def test_an_agent(tmp_path: Path) -> None:
    from rltool.agents import PPO

    subject = AgentUnderTest(PPO("CartPole-v1", num_envs=8, num_steps=32).learn(4096), "CartPole-v1", episodes=4)
    noise = {"random": lambda epsilon: RandomNoise(epsilon=epsilon)}
    result = measure_robustness(subject, noise, [1e-6, 5.0])
    assert result.curve("random")[1].scores == result.clean.scores
    assert result.curve("random")[2].scores != result.clean.scores
    assert np.isfinite(result.area)
    picture = draw_robustness([result, result], tmp_path / "new" / "curve.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    lines = write_csv([result], tmp_path / "curve.csv").read_text().splitlines()
    assert lines[0].startswith("run,attack,epsilon,return,low,high,normalized,cvar,flip_rate")
    assert len(lines) == 1 + 1 + 2 + 2  # Header, clean, one attack at two epsilons, and the envelope.
    assert json.dumps(list(result.rows()))
