"""Robustness curves: what attacks leave of a score, against epsilon, or against how many timesteps they may attack."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rltool.agents.evaluation import evaluate
from rltool.attacks.attack import Attack
from rltool.attacks.classifiers import attack_classifier
from rltool.attacks.policies import MOST_ENVS, cvar, play_at_random, play_attacked
from rltool.errors import UserError
from rltool.training.checkpoint import write_atomically
from rltool.training.statistics import bootstrap_interval

CLEAN = "clean"


@dataclass(frozen=True)
class Cell:
    """What one attack leaves at one level.

    Attributes:
        attack: Its name; `clean` where there was none.
        level: How much it may do: the radius of its ball, or the share of the timesteps that it is to attack.
        scores: Returns of the episodes; or, of each example, whether it is still classified rightly (0 or 1).
        flip_rate: Share of what was attacked on which the victim does something else.
        queries: Mean number of times that the victim was shown each observation or example.
        seconds: Duration.
        attacked_share: Share of the timesteps that were attacked.
    """

    attack: str
    level: float
    scores: list[float]
    flip_rate: float = 0.0
    queries: float = 0.0
    seconds: float = 0.0
    attacked_share: float = 1.0

    @property
    def score(self) -> float:
        """Mean return, or accuracy."""
        return float(np.mean(self.scores))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the score."""
        return bootstrap_interval(np.asarray(self.scores))

    @property
    def cvar(self) -> float:
        """Mean of the worst tenth of the returns (conditional value at risk)."""
        return cvar(self.scores)


@dataclass(frozen=True)
class Robustness:
    """The curve of one victim.

    Attributes:
        name: What it is called in tables and pictures.
        metric: `return` or `accuracy`.
        clean: Without an attack.
        chance: Score of actions or classes drawn at random.
        cells: What each attack leaves at each level.
        axis: What levels are: `epsilon`, or `share` of the timesteps.
    """

    name: str
    metric: str
    clean: Cell
    chance: float
    cells: list[Cell]
    axis: str = "epsilon"

    @property
    def levels(self) -> list[float]:
        """Those that were tried, in order."""
        return sorted({cell.level for cell in self.cells})

    @property
    def attacks(self) -> list[str]:
        """Those that were tried, in the order in which they came."""
        return list(dict.fromkeys(cell.attack for cell in self.cells))

    def curve(self, attack: str) -> list[Cell]:
        """The cells of one attack by level, from the clean one at 0 on."""
        return [self.clean, *sorted((cell for cell in self.cells if cell.attack == attack), key=lambda c: c.level)]

    @cached_property
    def envelope(self) -> list[Cell]:
        """The least that is left at each level, from 0 on: whoever may do so much may do less.

        Of examples, what every attack has left right; of episodes, those of the attack with the lowest mean.
        """
        lowest = [self.clean]
        for level in self.levels:
            here = [cell for cell in self.cells if cell.level == level]
            if self.metric == "accuracy":
                scores = np.min([lowest[-1].scores, *(cell.scores for cell in here)], axis=0)
                lowest.append(Cell("all", level, scores.tolist()))
            else:
                least = min([lowest[-1], *here], key=lambda cell: cell.score)
                lowest.append(Cell(least.attack, level, least.scores))
        return lowest

    def normalized(self, score: float) -> float:
        """A score between chance, 0, and the clean one, 1; nan where these are the same."""
        width = self.clean.score - self.chance
        return (score - self.chance) / width if width else float("nan")

    @property
    def area(self) -> float:
        """Area under the envelope of normalized scores, as a share of what a victim would have that no attack harms."""
        x = np.array([cell.level for cell in self.envelope])
        y = np.array([self.normalized(cell.score) for cell in self.envelope])
        return float(np.trapezoid(y, x) / x[-1])

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each cell, the envelope's last, as in the table and the CSV file."""
        envelope = [Cell("envelope", cell.level, cell.scores) for cell in self.envelope[1:]]
        for cell in [self.clean, *(cell for attack in self.attacks for cell in self.curve(attack)[1:]), *envelope]:
            row = {
                "run": self.name,
                "attack": cell.attack,
                self.axis: cell.level,
                self.metric: cell.score,
                "low": cell.interval[0],
                "high": cell.interval[1],
                "normalized": self.normalized(cell.score),
            }
            if self.metric == "return":
                row["cvar"] = cell.cvar
            if self.axis == "share":
                row["attacked_share"] = cell.attacked_share
            yield row | {"flip_rate": cell.flip_rate, "queries": cell.queries, "seconds": cell.seconds}


class AgentUnderTest:
    """An agent whose returns are measured; every measurement plays the same episodes.

    Args:
        agent: One of rltool's, or one that `load_sb3` read.
        env_id: Where it plays.
        episodes: How many it plays each time.
        seed: Seeds environments and attacks.
        env_kwargs: Arguments of the environment's constructor.
    """

    metric = "return"

    def __init__(
        self, agent: Any, env_id: str, episodes: int = 50, seed: int = 0, env_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.agent, self.env_id, self.episodes, self.seed, self.env_kwargs = agent, env_id, episodes, seed, env_kwargs

    def clean(self) -> Cell:
        """Without an attack."""
        played = evaluate(
            self.agent,
            self.env_id,
            self.episodes,
            self.seed,
            num_envs=min(self.episodes, MOST_ENVS),
            env_kwargs=self.env_kwargs,
        )
        return Cell(CLEAN, 0.0, played.returns)

    def chance(self) -> float:
        """Mean return of actions drawn at random."""
        return play_at_random(self.agent, self.env_id, self.episodes, self.seed, self.env_kwargs).mean_return

    def parts(self, attack: Attack) -> Mapping[str, Attack]:
        """What an attack consists of, each to be measured and kept by itself, if it is a suite."""
        return attack.suite(self.agent)

    def attacked(self, name: str, level: float, attack: Attack) -> Cell:
        """With an attack on what it sees."""
        return self.played(name, level, attack)

    def played(self, name: str, level: float, attack: Attack, fraction: float = 1.0) -> Cell:
        """The same in a share of the timesteps, drawn at random."""
        played = play_attacked(
            self.agent, self.env_id, attack, self.episodes, self.seed, fraction=fraction, env_kwargs=self.env_kwargs
        )
        return Cell(
            name,
            level,
            played.attacked.returns,
            played.flip_rate or 0.0,
            played.queries_per_step,
            played.seconds,
            played.attacked_share,
        )


class AgentOverShares(AgentUnderTest):
    """An agent that is attacked in some timesteps alone; levels are their share.

    Attacks that choose when (`timed`, `critical`) have it as their budget. Others attack at random.
    """

    def attacked(self, name: str, level: float, attack: Attack) -> Cell:
        """With an attack in a share of the timesteps."""
        return self.played(name, level, attack, 1.0 if hasattr(attack, "budget") else level)


class ClassifierUnderTest:
    """A classifier whose accuracy on its first test examples is measured.

    Args:
        classifier: A `ClassifierLearner`.
        examples: How many.
    """

    metric = "accuracy"

    def __init__(self, classifier: Any, examples: int = 1_000) -> None:
        self.classifier, self.examples = classifier, examples

    def clean(self) -> Cell:
        """Without an attack."""
        part = self.classifier.dataset.test
        x = torch.from_numpy(part.x[: self.examples]).to(self.classifier.device)
        right = self.classifier.logits(x).argmax(1).cpu().numpy() == part.y[: self.examples]
        return Cell(CLEAN, 0.0, right.astype(float).tolist())

    def chance(self) -> float:
        """Accuracy of classes drawn at random."""
        return 1 / self.classifier.model.num_classes

    def parts(self, attack: Attack) -> Mapping[str, Attack]:
        """None: of examples, a suite goes on with those that are left."""
        return {}

    def attacked(self, name: str, level: float, attack: Attack) -> Cell:
        """With an attack; what is wrong without it stays wrong."""
        result = attack_classifier(self.classifier, attack, self.examples)
        left = result.left.cpu().numpy().astype(float).tolist()
        return Cell(name, level, left, result.flip_rate, result.queries, result.seconds)


@dataclass
class Cells:
    """Measured cells on disk, so that what was measured once need not be again.

    Attributes:
        path: A JSON file; without one, they are kept in memory.
        key: What the cells depend on beyond attack and epsilon; those of another key are forgotten.
        known: The cells.
        chance: The score of chance, once it is known.
    """

    path: Path | None = None
    key: dict[str, Any] = field(default_factory=dict)
    known: dict[str, Cell] = field(default_factory=dict)
    chance: float | None = None

    def __post_init__(self) -> None:
        if self.path is None:
            return
        try:
            stored = json.loads(self.path.read_text())
            if stored["key"] == self.key:
                self.chance = stored["chance"]
                self.known = {name: Cell(**cell) for name, cell in stored["cells"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            pass  # There is none, or one that was cut off: it is measured anew.

    def get(self, name: str, measure: Callable[[], Cell]) -> Cell:
        """A cell by name, measured if it has not been."""
        if name not in self.known:
            self.known[name] = measure()
            self.save()
        return self.known[name]

    def save(self) -> None:
        """Write all that is known."""
        if self.path is None:
            return
        cells = {name: asdict(cell) for name, cell in self.known.items()}
        write_atomically(self.path, json.dumps({"key": self.key, "chance": self.chance, "cells": cells}).encode())


def measure_robustness(
    subject: AgentUnderTest | ClassifierUnderTest,
    attacks: Mapping[str, Callable[[float], Attack]],
    levels: Sequence[float],
    name: str = "victim",
    cells: Cells | None = None,
    on_cell: Callable[[Cell], None] | None = None,
    axis: str = "epsilon",
) -> Robustness:
    """Measure what every attack leaves at every epsilon, or at every share of the timesteps.

    Args:
        subject: What is attacked: `AgentOverShares`, where levels are shares.
        attacks: Attacks by name, each made from a level.
        levels: Epsilons, or shares, above 0.
        name: What the victim is called.
        cells: Where cells are kept; those that are there already are not measured again.
        on_cell: Called after each cell.
        axis: What levels are: `epsilon` or `share`.

    Raises:
        UserError: There is nothing to measure, or a level is not above 0.
    """
    if not attacks or not levels:
        raise UserError(f"a robustness curve needs at least one attack and one {axis}")
    for level in levels:
        if not 0 < level < np.inf:
            raise UserError(f"every {axis} is a number above 0, not {level:g}; at 0 stands the score without an attack")
        if axis == "share" and level > 1:
            raise UserError(f"a share of the timesteps is at most 1, not {level:g}")
    made = {(each, level): make(level) for each, make in attacks.items() for level in sorted(set(levels))}
    cells = cells or Cells()
    if cells.chance is None:
        cells.chance = subject.chance()
    clean = cells.get(CLEAN, subject.clean)
    measured = []
    for (each, level), attack in made.items():
        parts = subject.parts(attack)
        found = [
            cells.get(f"{name} {level!r}", partial(subject.attacked, each, level, part))
            for name, part in ({f"{each}/{name}": part for name, part in parts.items()} or {each: attack}).items()
        ]
        least = min(found, key=lambda cell: cell.score)
        queries, seconds = (sum(getattr(cell, figure) for cell in found) for figure in ("queries", "seconds"))
        measured.append(replace(least, queries=queries, seconds=seconds))
        if on_cell:
            on_cell(measured[-1])
    return Robustness(name, subject.metric, clean, cells.chance, measured, axis)
