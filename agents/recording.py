"""STUB"""

import numpy as np


class RandomAgent:
    def __init__(self, action_space, seed=0):
        self.action_space = action_space
        action_space.seed(seed)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.stack([self.action_space.sample() for _ in range(len(observation))]), None
