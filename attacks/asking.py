"""What black-box attacks may do: show the victim changed samples, and look at what it says; every one is counted."""

from __future__ import annotations

import torch

from rltool.attacks.attack import Problem
from rltool.attacks.victim import TOGETHER


def ask(problem: Problem, rows: torch.Tensor, tried: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of changed samples.

    Args:
        problem: What is attacked; its queries are counted up.
        rows: Which of its samples each one comes from, `(M,)`.
        tried: The changed samples, `(M, ...)`; the victim is shown the nearest that it can be shown.

    Returns:
        How large the margin is (of continuous actions: how far they have moved; infinite where that is a success, so
        that it is above all others), and whether the attack has succeeded, both `(M,)`.
    """
    losses, success = [], []
    with torch.no_grad():
        for some, inputs in zip(rows.split(TOGETHER), tried.split(TOGETHER), strict=True):
            part = problem[some]
            outputs = part.victim.logits(part.victim.admissible(part.x, inputs))
            success.append(part.succeeded(outputs))
            margin = part.objective("margin")(outputs)
            # Several components may have moved further together than the one that makes a success.
            losses.append(margin if part.victim.tolerance is None else margin.where(~success[-1], torch.inf))
    problem.queries.index_add_(0, rows, torch.ones_like(rows))
    return torch.cat(losses), torch.cat(success)


def decisions(problem: Problem, rows: torch.Tensor, tried: torch.Tensor) -> torch.Tensor:
    """Whether the attack has succeeded, `(M,)`: all that a victim tells which names nothing but its choice."""
    return ask(problem, rows, tried)[1]


def unbroken(problem: Problem) -> torch.Tensor:
    """The samples that the victim is not wrong about without an attack, `(R,)`."""
    return torch.nonzero(~problem.succeeded(problem.outputs))[:, 0]
