"""What an agent sees, translated into another look of the world."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from rltool.errors import UserError
from rltool.networks.observations import channels_last, image_size
from rltool.training.run import Run


class TranslatedObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Sends image observations through a run's translator, so that a policy sees the world that it knows.

    A policy that was trained on the source domain plays in the target domain with `back=True` of a `cyclegan` run on
    `source:target`. The observation space stays as it is: bytes, or floats in [0, 1]; channels first, last, or gray
    images without an axis of their own.

    Args:
        env: The environment.
        run: A run of `cyclegan` or `pix2pix`.
        back: Translate from the target to the source (`cyclegan`).

    Raises:
        UserError: The run translates nothing, or other images than the environment's.
    """

    def __init__(self, env: gym.Env, run: str, back: bool = False) -> None:
        RecordConstructorArgs.__init__(self, run=run, back=back)
        gym.ObservationWrapper.__init__(self, env)
        learner = Run(run).agent
        if not hasattr(learner, "translate"):
            raise UserError(f"{run} translates no images; train a translator: rltool train cyclegan SOURCE:TARGET")
        if back and not hasattr(learner.averaged, "back"):
            raise UserError(f"{run} translates in one direction only; train cyclegan for the way back")
        self.learner, self.options = learner, {"back": True} if back else {}
        space = env.observation_space
        self.gray = len(space.shape or ()) == 2
        if not self.gray and (not isinstance(space, gym.spaces.Box) or len(space.shape) != 3):
            raise UserError(f"only images are translated, and observations here are {space}")
        self.bytes = space.dtype == np.uint8
        self.last = not self.gray and channels_last(space)
        channels = 1 if self.gray else image_size(space)[0]
        if channels != learner.shape[0]:
            raise UserError(
                f"observations have {channels} channels, and {run} translates images with {learner.shape[0]}; train it "
                "on frames of this environment"
            )

    def observation(self, observation: Any) -> Any:
        """The translation of one observation."""
        image = np.asarray(observation)
        if self.gray:
            image = image[None]
        elif self.last:
            image = image.transpose(2, 0, 1)
        scale = 255 if self.bytes else 1
        made = self.learner.translate(image[None] / np.float32(scale), **self.options)[0] * scale
        made = (made.round() if self.bytes else made).astype(image.dtype)
        return made[0] if self.gray else made.transpose(1, 2, 0) if self.last else made
