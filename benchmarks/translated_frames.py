"""A policy in a world of other colors, with and without a translator that was learned without pairs.

Catch: a ball falls, and a paddle is moved below it; frames of 3 x 12 x 10 bytes, return 1 or -1. A policy is trained on
frames as they are, then plays where all frames are recoloured (`rltool list shifts`): as it is, and seeing them through
a `cyclegan` that was shown frames of both worlds, of different games.

    python benchmarks/translated_frames.py --seeds 3 --out benchmarks/results/translated-frames.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import rltool
from rltool.data import shift_examples
from rltool.gan.observations import TranslatedObservation

HEIGHT, WIDTH = 12, 10
FRAMES, EPISODES = 1_500, 200


class Catch(gym.Env[np.ndarray, np.int64]):
    """The ball is two pixels wide, the paddle four; both are gray, so that colors are a matter of the world."""

    observation_space = gym.spaces.Box(0, 255, (3, HEIGHT, WIDTH), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def _frame(self) -> np.ndarray:
        frame = np.zeros((3, HEIGHT, WIDTH), np.uint8)
        frame[:, self.row : self.row + 2, self.ball : self.ball + 2] = 255
        frame[:, -1, self.paddle : self.paddle + 4] = 255
        return frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.row, self.ball = 0, int(self.np_random.integers(WIDTH - 1))
        self.paddle = int(self.np_random.integers(WIDTH - 3))
        return self._frame(), {}

    def step(self, action: Any) -> Any:
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, WIDTH - 4))
        self.row += 1
        done = self.row == HEIGHT - 2
        caught = self.paddle <= self.ball + 0.5 <= self.paddle + 3
        return self._frame(), (1.0 if caught else -1.0) if done else 0.0, done, False, {}


class Recoloured(gym.ObservationWrapper):  # type: ignore[type-arg]
    """Frames in other colors, the same for all."""

    def observation(self, observation: np.ndarray) -> np.ndarray:
        shifted = shift_examples(observation[None] / np.float32(255), "~recoloured")[0]
        return (shifted * 255).round().astype(np.uint8)


def record(make: Any, seed: int) -> np.ndarray:
    """Frames of games played at random."""
    env, rng = make(), np.random.default_rng(seed)
    frames = [env.reset(seed=seed)[0]]
    while len(frames) < FRAMES:
        frame, _, done, _, _ = env.step(rng.integers(3))
        frames.append(env.reset()[0] if done else frame)
    return np.stack(frames).transpose(0, 2, 3, 1)


def measure(seed: int, folder: Path, timesteps: int, steps: int) -> dict[str, float]:
    """Mean returns of one seed."""
    gym.register("Catch-v0", Catch)
    gym.register("CatchRecoloured-v0", lambda: Recoloured(Catch()))
    agent = rltool.train(
        "ppo", "Catch-v0", total_timesteps=timesteps, seed=seed, run_dir=str(folder), backbone="mlp",
        eval_freq=0, learning_rate=1e-3, num_envs=16, num_steps=64, batch_size=256,
    ).agent  # fmt: skip
    for name, make, first in (("here", Catch, 2 * seed), ("there", lambda: Recoloured(Catch()), 2 * seed + 1)):
        np.savez(folder / f"{name}.npz", x=record(make, first))
    translator = rltool.train(
        "cyclegan", f"{folder / 'here.npz'}:{folder / 'there.npz'}", preset="digits:digits~recoloured", seed=seed,
        total_timesteps=steps, run_dir=str(folder), eval_freq=0,
    )  # fmt: skip
    gym.register(
        "CatchTranslated-v0", lambda: TranslatedObservation(Recoloured(Catch()), str(translator.path), back=True)
    )
    returns = {
        name: rltool.evaluate(agent, env_id, episodes=EPISODES, seed=1_000 + seed).mean_return
        for name, env_id in (
            ("source", "Catch-v0"), ("target", "CatchRecoloured-v0"), ("translated", "CatchTranslated-v0"),
        )
    }  # fmt: skip
    for name in ("Catch-v0", "CatchRecoloured-v0", "CatchTranslated-v0"):
        del gym.registry[name]
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timesteps", type=int, default=40_000, help="of the policy")
    parser.add_argument("--steps", type=int, default=500, help="of the translators")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(seed, Path(folder), options.timesteps, options.steps))
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in rows[-1].items()), flush=True)
    if options.out:
        options.out.write_text(json.dumps({"episodes": EPISODES, "seeds": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
