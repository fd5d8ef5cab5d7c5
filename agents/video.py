"""Filming episodes: mp4 files for watching, animated GIFs for a page."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rltool.agents.evaluation import Evaluation, Predictor, make_rendered_env, watch
from rltool.errors import UserError

GIF_FPS = 20


def film(
    agent: Predictor,
    env_id: str,
    folder: Path,
    episodes: int = 1,
    seed: int = 0,
    deterministic: bool = True,
    *,
    kinds: Sequence[str] = ("mp4",),
    env_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Evaluation, list[Path]]:
    """Let an agent play, and film each episode into `folder`.

    Args:
        agent: Anything with `predict`.
        env_id: The environment; it must be able to render `rgb_array`.
        folder: Where `<env>-seed<S>.mp4` goes, one file an episode.
        episodes: How many episodes.
        seed: Seeds the first episode; the k-th gets `seed + k`.
        deterministic: Take the most probable actions instead of samples.
        kinds: "mp4", "gif" or both.
        env_kwargs: Arguments of the environment's constructor.

    Returns:
        The evaluation, and the files.

    Raises:
        UserError: There is no ffmpeg, the environment cannot render, or the folder cannot be written.
    """
    frames: list[np.ndarray] = []
    files: list[Path] = []
    stem = env_id.replace("/", "-").replace(":", "-")
    current = 0

    def finish(episode: int) -> None:
        for kind in kinds:
            file = folder / f"{stem}-seed{seed + episode}.{kind}"
            write_video(file, frames, int(env.metadata.get("render_fps") or 30))
            files.append(file)
        frames.clear()

    def on_frame(frame: np.ndarray, episode: int) -> None:
        nonlocal current
        if episode != current:
            finish(current)
            current = episode
        frames.append(frame)

    if "mp4" in kinds:
        find_ffmpeg()
    prepare_display()
    env = make_rendered_env(env_id, "rgb_array", env_kwargs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result = watch(agent, env, episodes, seed, deterministic, on_frame=on_frame)
        finish(current)
    except OSError as error:
        raise UserError(f"cannot write videos into {folder}: {error.strerror or error}") from None
    finally:
        env.close()
    return result, files


def prepare_display() -> None:
    """See to it that pygame draws in memory where there is no screen."""
    if not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))) and sys.platform == "linux":
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def find_ffmpeg() -> str:
    """Path of ffmpeg.

    Raises:
        UserError: There is none.
    """
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise UserError("filming needs ffmpeg: pip install imageio-ffmpeg, or film with --gif") from None


def write_video(file: Path, frames: Sequence[np.ndarray], fps: int) -> None:
    """Write frames `(height, width, 3)` of bytes as .mp4 (H.264) or .gif, by the file's ending."""
    if file.suffix == ".gif":
        from PIL import Image

        step = max(1, round(fps / GIF_FPS))
        images = [Image.fromarray(f).quantize(64) for f in frames[::step]]
        images[0].save(
            file, save_all=True, append_images=images[1:], duration=round(1000 * step / fps), loop=0, optimize=True
        )
        return
    import imageio_ffmpeg

    height, width = (size // 2 * 2 for size in frames[0].shape[:2])  # H.264 wants even sides.
    writer = imageio_ffmpeg.write_frames(str(file), (width, height), fps=fps, macro_block_size=1, quality=7)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame[:height, :width]))
    writer.close()
