"""Attacks to look at: attacked images beside clean ones, and films of an episode with and without an attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from rltool.attacks.attack import Attack, AttackResult
from rltool.attacks.victim import Victim
from rltool.errors import UserError

LONGEST = 2_000  # Frames of a film.
PAPER, INK = 245, (40, 40, 40)


def draw_examples(
    victim: Victim, x: torch.Tensor, result: AttackResult, classes: Sequence[str], out: Path, count: int = 10
) -> Path:
    """Draw images: clean, their perturbation magnified to full contrast, and attacked, with what the victim says.

    Args:
        victim: What was attacked.
        x: Clean images `(B, channels, height, width)` in [0, 1].
        result: What the attack made of them.
        classes: Names of the classes.
        out: The picture: .png, .svg or .pdf.
        count: How many are shown, the first ones.

    Raises:
        UserError: The inputs are no images, or the picture cannot be written.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise UserError(f"a picture shows images of 1 or 3 channels, not inputs of shape {tuple(x.shape[1:])}")
    from matplotlib.figure import Figure

    x, x_adv = x[:count].cpu(), result.x_adv[:count].cpu()
    with torch.no_grad(), victim.undisturbed():
        before, after = (victim.logits(each.to(result.x_adv)).argmax(1).tolist() for each in (x, x_adv))
    delta = x_adv - x
    largest = float(delta.abs().max().clamp_min(1e-12))
    rows = (("clean", x), (f"perturbation x {0.5 / largest:.3g}", 0.5 + delta / (2 * largest)), ("attacked", x_adv))
    figure = Figure(figsize=(1.1 * len(x) + 0.6, 3.9), dpi=120, layout="constrained")
    grid = figure.subplots(3, len(x), squeeze=False)
    for axes, (title, images) in zip(grid, rows, strict=True):
        for ax, image in zip(axes, images, strict=True):
            shown = image.permute(1, 2, 0).clamp(0, 1).numpy()
            ax.imshow(shown if shown.shape[2] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(title, fontsize=7)
    for top, bottom, one, two in zip(grid[0], grid[2], before, after, strict=True):
        top.set_title(classes[one], fontsize=9)
        bottom.set_xlabel(classes[two], fontsize=9, color="black" if one == two else "crimson")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    return out


class Camera(VectorWrapper):
    """Keeps what the first of its environments looks like after each step, and its return so far."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.frames: list[np.ndarray] = []
        self.returns: list[float] = []

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and look."""
        observations, infos = self.env.reset(**options)
        self._look(0.0)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and look."""
        step = self.env.step(actions)
        self._look(float(step[1][0]))
        return step

    def _look(self, reward: float) -> None:
        self.returns.append((self.returns[-1] if self.returns else 0.0) + reward)
        if len(self.frames) < LONGEST:
            self.frames.append(np.asarray(self.env.render()[0]))  # type: ignore[index]


def film_attack(
    agent: Any,
    env_id: str,
    attack: Attack,
    file: Path,
    seed: int = 0,
    *,
    fraction: float = 1.0,
    env_kwargs: Mapping[str, Any] | None = None,
) -> tuple[float, float]:
    """Film an episode twice from the same seed, side by side: without and with an attack on what the agent sees.

    Args:
        agent: One of rltool's, or one that `load_sb3` read.
        env_id: The environment; it must be able to render `rgb_array`.
        attack: The attack.
        file: The film, .mp4 or .gif.
        seed: Seeds the environment and the attack.
        fraction: Share of the timesteps that are attacked.
        env_kwargs: Arguments of the environment's constructor.

    Returns:
        The two returns.

    Raises:
        UserError: The environment cannot render, there is no ffmpeg, or the policy cannot be attacked.
    """
    from rltool.agents.evaluation import evaluate, make_rendered_env
    from rltool.agents.video import find_ffmpeg, prepare_display, write_video
    from rltool.attacks.policies import options_under_attack
    from rltool.envs import make_vector_env

    if file.suffix == ".mp4":
        find_ffmpeg()
    prepare_display()
    probe = make_rendered_env(env_id, "rgb_array", env_kwargs)
    fps = int(probe.metadata.get("render_fps") or 30)
    probe.close()
    options = options_under_attack(agent, attack, env_kwargs) | {"vectorization": "sync", "render_mode": "rgb_array"}
    stack = int(options.get("frame_stack", 1))
    films, returns = [], []
    for attacked in (False, True):
        envs: VectorEnv = make_vector_env(env_id, 1, seed=seed, **options)
        try:
            played_in = attack.surround(envs, agent, fraction, seed, frame_stack=stack) if attacked else envs
            camera = Camera(played_in)
            played = evaluate(agent, camera, 1, seed)
        finally:
            envs.close()
        returns.append(played.mean_return)
        frames = camera.frames
        if envs.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP:
            frames = frames[:-1]  # The last one is the next episode's first.
        title = "attacked" if attacked else "clean"
        films.append(
            [_captioned(frame, f"{title}: {sofar:.5g}") for frame, sofar in zip(frames, camera.returns, strict=False)]
        )
    length = max(map(len, films))
    for frames in films:  # Whichever ends first stays where it is, faded.
        frames += [(0.5 * frames[-1] + 0.5 * PAPER).astype(np.uint8)] * (length - len(frames))
    gap = np.full((films[0][0].shape[0], 6, 3), PAPER, dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_video(file, [np.hstack([one, gap, two]) for one, two in zip(*films, strict=True)], fps)
    return returns[0], returns[1]


def _captioned(frame: np.ndarray, text: str) -> np.ndarray:
    """A frame with a line of text above it."""
    from PIL import Image, ImageDraw, ImageFont

    height = max(16, frame.shape[0] // 14)
    strip = Image.new("RGB", (frame.shape[1], height), (PAPER,) * 3)
    ImageDraw.Draw(strip).text((6, 1), text, fill=INK, font=ImageFont.load_default(height - 5))
    return np.vstack([np.asarray(strip), frame[..., :3].astype(np.uint8)])
