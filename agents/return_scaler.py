"""Scaling rewards, so that values are of the same size in every environment."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rltool.networks import RunningNorm


class ReturnScaler(nn.Module):
    """Divides rewards by the running standard deviation of the discounted return, and clips them to [-10, 10].

    Args:
        num_envs: Environments whose returns run side by side.
        gamma: Discount factor of the return.
    """

    running: torch.Tensor

    def __init__(self, num_envs: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.norm = RunningNorm(())
        self.register_buffer("running", torch.zeros(num_envs, dtype=torch.float64))

    def __call__(self, rewards: np.ndarray, done: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Scale rewards `(T, N)`, after taking them into the statistics."""
        returns = np.empty(rewards.shape)
        running = self.running.numpy()
        for t in range(len(rewards)):
            running *= self.gamma
            running += rewards[t]
            returns[t] = running
            running[done[t]] = 0
        self.norm.update(returns[valid])
        scale = 1 / np.sqrt(self.norm.var.item() + self.norm.epsilon)
        return np.clip(rewards * np.float32(scale), -self.norm.clip, self.norm.clip)
