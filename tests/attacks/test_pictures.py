"""Attacks to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rltool.agents import PPO
from rltool.attacks import PGD, RandomNoise, Victim
from rltool.attacks.pictures import draw_examples, film_attack
from rltool.errors import UserError
from tests.attacks.conftest import Digits


def test_examples(digits: Digits, tmp_path: Path) -> None:
    victim, x, y = digits
    out = draw_examples(victim, x, PGD(epsilon=0.2)(victim, x, y), tuple("0123456789"), tmp_path / "a" / "b.png", 6)
    with Image.open(out) as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    points = Victim(nn.Linear(2, 2))
    with pytest.raises(UserError, match="images of 1 or 3 channels"):
        draw_examples(points, x := torch.zeros(3, 2), PGD()(points, x), ("a", "b"), out)


def test_a_film_of_both_episodes(tmp_path: Path) -> None:
    agent = PPO("CartPole-v1", num_envs=8, num_steps=64).learn(2_048)
    file = tmp_path / "new" / "film.gif"
    clean, attacked = film_attack(agent, "CartPole-v1", RandomNoise(epsilon=3.0), file)
    assert clean > attacked
    with Image.open(file) as film:
        assert film.size[0] == 2 * 600 + 6
        # Every second or third frame of the longer episode; the shorter one stays where it ended.
        assert 0.3 * clean < film.n_frames <= clean + 1  # type: ignore[attr-defined]
