"""Victims that several tests attack."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rltool.attacks import Victim
from rltool.data import load_dataset

Digits = tuple[Victim, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="session")
def digits() -> Digits:
    """A small network that reads digits, 64 test images that it reads rightly, and their labels."""
    data = load_dataset("digits")
    x, y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        for _ in range(150):
            gradients = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
    net.eval()
    x, y = torch.from_numpy(data.test.x), torch.from_numpy(data.test.y)
    right = torch.nonzero(net(x).argmax(1) == y)[:64, 0]
    return Victim(net, (0, 1)), x[right], y[right]
