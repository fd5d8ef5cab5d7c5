"""Pictures of what a generator makes: grids, strips, scatters, and films of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rltool.agents.video import find_ffmpeg, write_video
from rltool.errors import UserError
from rltool.networks.backbone import evaluating
from rltool.training.checkpoint import disk_error, load_state

if TYPE_CHECKING:
    from rltool.gan.learner import GANLearner
    from rltool.training.run import Run

SHORTER_SIDE, FILM_SIDE = 480, 320  # Pixels that small pictures, and films, are enlarged to, about.
STEPS = 10  # Samples in a strip.
FPS = 8
SHOWN = 2_500  # Points in a scatter.


def tile(images: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Images side by side.

    Args:
        images: `(n, channels, height, width)` in [0, 1]; unless channels are one or three, their mean is shown.
        columns: How many in a row; by default as many as rows.
        gap: White pixels between them.

    Returns:
        Bytes `(height, width, 3)`.
    """
    n, channels, height, width = images.shape
    if channels not in (1, 3):
        images = images.mean(1, keepdims=True)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    pixels = (images.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    for k, image in enumerate(pixels):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def enlarge(pixels: np.ndarray, side: int = SHORTER_SIDE) -> np.ndarray:
    """Bytes `(height, width, 3)` by the largest whole factor that leaves the shorter side within `side`."""
    factor = max(1, side // min(pixels.shape[:2]))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def save_image(pixels: np.ndarray, out: Path) -> None:
    """Write bytes `(height, width, 3)`, small ones enlarged."""
    from PIL import Image

    Image.fromarray(enlarge(pixels)).save(out)


def _prepare(out: Path, endings: Sequence[str]) -> None:
    """See that a file can be written.

    Raises:
        UserError: It has none of the endings, or its folder cannot be made.
    """
    if out.suffix not in endings:
        raise UserError(f"{out} should end in {' or '.join(endings)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    except OSError as error:
        raise UserError(str(disk_error(out, error))) from None


def save_samples(learner: GANLearner, samples: np.ndarray, out: Path) -> None:
    """Write samples as a picture, or as arrays.

    Args:
        learner: Where they come from.
        samples: `(n, ...)`.
        out: A grid, or a scatter over the data, `.png`; or an array `x`, `.npz`.

    Raises:
        UserError: The file's name ends otherwise, it cannot be written, or nobody can draw such samples.
    """
    _prepare(out, (".png", ".npz"))
    if out.suffix == ".npz":
        np.savez_compressed(out, x=samples)
    elif samples.ndim == 4:
        save_image(tile(samples), out)
    else:
        draw_points(learner, samples, out)


def draw_points(learner: GANLearner, samples: np.ndarray, out: Path) -> None:
    """Scatter samples `(n, 2)` over the data, above the critic's level sets."""
    from matplotlib.figure import Figure

    if learner.shape != (2,):
        raise UserError(f"points of {learner.shape[0]} coordinates cannot be drawn; write them into an .npz")
    figure = Figure(figsize=(6.4, 6), dpi=120, layout="constrained")
    axes = figure.subplots()
    (left, bottom), (right, top) = learner.window.tolist()
    levels = learner.levels(120)
    drawn = axes.contourf(levels, 14, extent=(left, right, bottom, top), cmap="PuOr", alpha=0.45)
    axes.contour(levels, 14, extent=(left, right, bottom, top), colors="gray", linewidths=0.4)
    figure.colorbar(drawn, label="what the discriminator says (higher: real)", shrink=0.85)
    real = learner.dataset.train.x[:SHOWN]
    axes.scatter(real[:, 0], real[:, 1], s=5, color="black", alpha=0.4, linewidths=0, label="data")
    axes.scatter(samples[:, 0], samples[:, 1], s=5, color="tab:green", alpha=0.6, linewidths=0, label="samples")
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=f"{learner.method} on {learner.data}")
    axes.legend(frameon=False, markerscale=3, loc="upper right")
    figure.savefig(out)


def interpolate(start: torch.Tensor, end: torch.Tensor, steps: int) -> torch.Tensor:
    """Noise on the great circle from one vector to another, at equal angles.

    On the straight line vectors would be shorter in the middle than the generator has ever seen (White, "Sampling
    generative networks", 2016); here lengths go evenly from one's to the other's.

    Args:
        start: Noise `(n, size)`.
        end: Noise `(n, size)`.
        steps: How many, both ends included.

    Returns:
        `(n, steps, size)`.
    """
    lengths = [each.norm(dim=1, keepdim=True) for each in (start, end)]
    a, b = start / lengths[0], end / lengths[1]
    angle = (a * b).sum(1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6).acos()[:, None]
    share = torch.linspace(0, 1, steps, device=start.device)[None, :, None]
    direction = (((1 - share) * angle).sin() * a[:, None] + (share * angle).sin() * b[:, None]) / angle.sin()
    return direction * torch.lerp(lengths[0][:, None], lengths[1][:, None], share)


def interpolations(learner: GANLearner, n: int, seed: int = 0, condition: str | None = None) -> np.ndarray:
    """Samples on the way from one noise vector to another, `(n, STEPS, ...)`."""
    generator = torch.Generator(learner.device).manual_seed(seed)
    network = learner.averaged
    if not hasattr(network, "noise"):
        raise UserError(f"{learner.method} makes images of images, and has no noise to interpolate between")
    noise = interpolate(network.noise(n, generator), network.noise(n, generator), STEPS).flatten(0, 1)
    wanted = learner.usual_conditions(n) if condition is None else learner.read_condition(condition, n)
    if wanted is not None:
        wanted = wanted.repeat_interleave(STEPS, 0)
    with torch.no_grad(), evaluating(network):
        samples = network(noise, wanted).cpu().numpy()
    return samples.reshape(n, STEPS, *samples.shape[1:])


def save_interpolation(learner: GANLearner, out: Path, n: int = 8, seed: int = 0, condition: str | None = None) -> None:
    """Write strips of samples, each from one to another; of points, the paths.

    Args:
        learner: Where they come from.
        out: The picture, `.png`, or arrays, `.npz`.
        n: How many strips.
        seed: Decides which.
        condition: What the samples are to be.

    Raises:
        UserError: The file's name ends otherwise, or it cannot be written.
    """
    _prepare(out, (".png", ".npz"))
    strips = interpolations(learner, n, seed, condition)
    if out.suffix == ".npz":
        np.savez_compressed(out, x=strips)
    elif strips.ndim == 5:
        save_image(tile(strips.reshape(-1, *strips.shape[2:]), STEPS), out)
    else:
        draw_points(learner, strips.reshape(-1, *strips.shape[2:]), out)


def film_frames(film: Mapping[str, Sequence[torch.Tensor]], window: np.ndarray | None) -> list[np.ndarray]:
    """Pictures `(height, width, 3)` of bytes, one for each frame that a learner has kept.

    Args:
        film: What `GANLearner.take_frame` kept: `samples`, and for points `levels`.
        window: The part of the plane that points are shown in, `(2, 2)`.
    """
    if window is None:
        return [enlarge(tile(frame.numpy() / 255), FILM_SIDE) for frame in film["samples"]]
    return [
        paint_points(samples.numpy(), levels.numpy(), window)
        for samples, levels in zip(film["samples"], film["levels"], strict=True)
    ]


def paint_points(samples: np.ndarray, levels: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Points as green squares over the critic's logits, violet where it says real: quick enough for films.

    Args:
        samples: `(n, 2)`.
        levels: Logits on a grid over the window, `(resolution, resolution)`.
        window: Least and largest coordinates, `(2, 2)`.

    Returns:
        Bytes `(FILM_SIDE, FILM_SIDE, 3)`.
    """
    from PIL import Image

    side = FILM_SIDE
    low, high = levels.min(), levels.max()
    share = np.asarray(Image.fromarray(levels).resize((side, side), Image.Resampling.BILINEAR))[::-1]
    share = np.floor((share - low) / max(high - low, 1e-9) * 14)[..., None] / 14  # Steps are level sets.
    pixels = ((1 - share) * (253, 208, 162) + share * (188, 189, 220)).astype(np.uint8)
    places = np.nan_to_num((samples - window[0]) / (window[1] - window[0]) * side, nan=-1).clip(-1, side).astype(int)
    for x, y in places[((places >= 1) & (places < side - 1)).all(1)]:
        pixels[side - 2 - y : side + 1 - y, x - 1 : x + 2] = (0, 109, 44)
    return pixels


def save_film(learner: GANLearner, run: Run, out: Path) -> None:
    """Write the film of a run's training.

    Args:
        learner: The run's.
        run: Its last checkpoint has the film.
        out: `.gif` or `.mp4`.

    Raises:
        UserError: The file's name ends otherwise, or nothing was filmed.
    """
    _prepare(out, (".gif", ".mp4"))
    checkpoints = run.checkpoints()
    film = (
        {name: list(frames) for name, frames in load_state(checkpoints[-1]).take("film").items()} if checkpoints else {}
    )
    if not film:
        raise UserError(f"{run.path} has no film: its checkpoint is missing, or its samples are no pictures")
    write_film(learner, film, out)


def write_film(learner: GANLearner, film: Mapping[str, Sequence[torch.Tensor]], out: Path) -> None:
    """Write the film that a learner has kept, `.gif` or `.mp4`."""
    if out.suffix == ".mp4":
        find_ffmpeg()
    frames = film_frames(film, None if len(learner.shape) == 3 else learner.window)
    write_video(out, [*frames, *[frames[-1]] * FPS], FPS)


def draw_run(learner: GANLearner, folder: Path, film: Mapping[str, Sequence[torch.Tensor]]) -> None:
    """Draw `samples.png`, `interpolation.png` and `training.gif` into a run's folder, where samples can be drawn."""
    images = len(learner.shape) == 3
    if not images and learner.shape != (2,):
        return
    save_samples(learner, learner.sample(64 if images else SHOWN), folder / "samples.png")
    save_interpolation(learner, folder / "interpolation.png")
    if film:
        write_film(learner, film, folder / "training.gif")
