"""Pictures of an adaptation: features before and after, the boundary between classes of points, the domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rltool.training.checkpoint import disk_error
from rltool.training.plotting import curve
from rltool.training.run import Run

COLORS = ("tab:blue", "tab:orange")  # Source, target.
SHOWN = 300  # Examples of a domain in a picture.
EXAMPLES = 10  # Images of a domain in a picture.


def principal_axes(x: np.ndarray) -> np.ndarray:
    """Coordinates `(n, 2)` along the two directions in which points `(n, d)` vary most."""
    projected = _principal(x, 2)
    return np.pad(projected, ((0, 0), (0, 2 - projected.shape[1])))


def _principal(x: np.ndarray, count: int) -> np.ndarray:
    centered = x - x.mean(0)
    return np.asarray(centered @ np.linalg.svd(centered, full_matrices=False)[2][:count].T)


def neighbor_embedding(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Coordinates `(n, 2)` in which near points `(n, d)` stay near: t-SNE (van der Maaten & Hinton, JMLR 2008)."""
    from sklearn.manifold import TSNE

    reduced = x if x.shape[1] <= 30 else _principal(x, 30)  # As its authors do: faster, and less noise.
    perplexity = min(30.0, max(1.0, (len(x) - 1) / 3))
    embedded: np.ndarray = TSNE(perplexity=perplexity, init="random", random_state=seed, max_iter=500).fit_transform(
        np.ascontiguousarray(reduced, dtype=np.float64)
    )
    return embedded


def draw_features(learners: Sequence[tuple[str, Any]], path: Path) -> Path:
    """`features.png`: the test features, colored by domain and by class; two columns for each learner.

    The first shows the principal axes, the second t-SNE, in which distances between clusters mean nothing.

    Args:
        learners: What to call each, and the learner.
        path: The file.
    """
    figure, axes = _figure(2, 2 * len(learners), size=(3.2, 3.2))
    for column, (title, learner) in enumerate(learners):
        domains, rng = learner.domains, np.random.default_rng(0)
        rows = [rng.permutation(len(each.test))[:SHOWN] for each in (domains.source, domains.target)]
        x = [each.test.x[r] for each, r in zip((domains.source, domains.target), rows, strict=True)]
        features = [learner.embed(torch.from_numpy(part).to(learner.device)).cpu().numpy() for part in x]
        labels = [domains.source.test.y[rows[0]], domains.target.test.y[rows[1]]]
        whole = np.concatenate(features)
        for k, (kind, flat) in enumerate((("PCA", principal_axes(whole)), ("t-SNE", neighbor_embedding(whole)))):
            pair = axes[0][2 * column + k], axes[1][2 * column + k]
            _scatter_domains(pair, flat, labels, domains.labeled)
            pair[0].set_title(f"{title}, {kind}")
    axes[0][0].legend(frameon=False, markerscale=2)
    axes[0][0].set_ylabel("by domain")
    axes[1][0].set_ylabel("by class: source o, target x")
    return _save(figure, path)


def _scatter_domains(axes: tuple[Any, Any], flat: np.ndarray, labels: Sequence[np.ndarray], labeled: bool) -> None:
    by_domain, by_class = axes
    parts = np.split(flat, [len(labels[0])])
    for part, name, color in zip(parts, ("source", "target"), COLORS, strict=True):
        by_domain.scatter(*part.T, s=6, color=color, label=name, linewidths=0, alpha=0.7)
    for part, y, marker in zip(parts, labels, ("o", "x"), strict=True):
        known = y if marker == "o" or labeled else np.full(len(y), -1)
        by_class.scatter(*part.T, c=known, cmap="tab10", vmin=-0.5, vmax=9.5, s=9, marker=marker, linewidths=0.6)
    for each in axes:
        each.set(xticks=[], yticks=[])


def draw_boundary(learners: Sequence[tuple[str, Any]], path: Path) -> Path:
    """`boundary.png`: where points are read as which class, and the test points of both domains."""
    figure, axes = _figure(1, len(learners))
    for (title, learner), plot in zip(learners, axes[0], strict=True):
        parts = [each.test for each in (learner.domains.source, learner.domains.target)]
        whole = np.concatenate([part.x for part in parts])
        low, high = whole.min(0) - 0.3, whole.max(0) + 0.3
        grid = np.stack(np.meshgrid(*(np.linspace(a, b, 200) for a, b in zip(low, high, strict=True))), -1)
        points = torch.from_numpy(grid.reshape(-1, 2).astype(np.float32)).to(learner.device)
        read = learner.decide(learner.logits(points)).cpu().numpy().reshape(200, 200)
        plot.contourf(grid[..., 0], grid[..., 1], read, levels=np.arange(-0.5, 10.5), cmap="tab10", alpha=0.2)
        for part, marker in zip(parts, ("o", "x"), strict=True):
            some = slice(None, SHOWN)
            plot.scatter(
                *part.x[some].T, c=part.y[some], cmap="tab10", vmin=-0.5, vmax=9.5, s=10, marker=marker, linewidths=0.7
            )
        plot.set(title=title, xlabel="source o, target x", xticks=[], yticks=[], aspect="equal")
    return _save(figure, path)


def draw_domains(learner: Any, path: Path) -> Path:
    """`domains.png`: test images of every source, and of the target, under each other."""
    domains = learner.domains
    return draw_strips([(each.name, each.test.x) for each in (*domains.sources, domains.target)], path)


def draw_strips(domains: Sequence[tuple[str, np.ndarray]], path: Path) -> Path:
    """Images `(n, channels, height, width)` in [0, 1] of several domains, the first of each, under each other."""
    figure, axes = _figure(len(domains), 1, size=(8, 0.9))
    for (name, x), (plot,) in zip(domains, axes, strict=True):
        strip = x[:EXAMPLES].transpose(2, 0, 3, 1).reshape(x.shape[2], -1, x.shape[1])
        plot.imshow(strip if strip.shape[2] == 3 else strip[..., 0], cmap="gray", vmin=0, vmax=1)
        plot.set(xticks=[], yticks=[])
        plot.set_ylabel(name if len(name) < 12 else f"{name[:10]}…", rotation=0, ha="right", va="center")
    return _save(figure, path)


def draw_adversary(run: Run) -> Path | None:
    """`adversary.png`: how often the domain classifier was right, over the training; None where there was none."""
    steps, values = curve(run, "train/domain_accuracy")
    if not len(steps):
        return None
    figure, ((plot,),) = _figure(1, 1, size=(6, 3.2))
    plot.plot(steps, values, color=COLORS[1])
    plot.axhline(0.5, color="gray", linewidth=0.8, linestyle="--")
    plot.set(
        title=f"{run.method} on {run.data}: domain classifier", xlabel="examples", ylabel="accuracy", ylim=(0.4, 1)
    )
    return _save(figure, run.path / "adversary.png")


def _figure(rows: int, columns: int, size: tuple[float, float] = (4.0, 3.6)) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=120, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> Path:
    try:
        figure.savefig(path)
    except OSError as error:
        raise disk_error(path, error) from error
    return path
