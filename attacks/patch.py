"""Adversarial patches: one sticker that works on all images, wherever it is put (Brown et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch

from rltool.attacks.attack import Attack, Problem, check_positive, generator
from rltool.attacks.norms import Norm
from rltool.attacks.physical import check_images, total_variation
from rltool.attacks.victim import NoGradient, Victim
from rltool.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Patch(Attack):
    """Puts a square sticker somewhere on every image.

    `fit` learns it from training images: Adam on the mean loss over minibatches, with the sticker at a place of its own
    on every image. Called without `fit`, it is learned from the images that are attacked: unlike those of other
    attacks, a sample's result depends on the others then.

    Attributes:
        size: Length of the sticker's sides in pixels.
        steps: Steps of Adam.
        batch_size: Images that a step looks at.
        learning_rate: Step size of Adam.
        smoothness: Weight of the sticker's total variation.
        patch: The sticker `(channels, size, size)`, where it is known.

    Example:
        >>> attack = Patch(size=3).fit(victim, x_train, y_train)  # doctest: +SKIP
        >>> fooled = attack(victim, x_test, y_test).success.float().mean()  # doctest: +SKIP
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    continuous: ClassVar[bool] = False
    norm: Norm = "l0"
    size: int = 3
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 0.1
    smoothness: float = 0.0
    patch: torch.Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(size=self.size, steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate)
        if not self.smoothness >= 0:
            raise UserError(f"smoothness must be at least 0, not {self.smoothness}")

    def fit(
        self, victim: Victim, x: torch.Tensor, y: torch.Tensor | None = None, target: torch.Tensor | None = None
    ) -> Self:
        if self.patch is not None:
            return self
        with victim.undisturbed():
            return replace(self, patch=self._learn(self.pose(victim, x, y, target)))

    def run(self, problem: Problem) -> torch.Tensor:
        x = problem.x
        check_images(problem.victim, x)
        patch = self._learn(problem) if self.patch is None else self.patch.to(x)
        if patch.ndim != 3 or patch.shape[0] != x.shape[1] or patch.shape[1] != patch.shape[2]:
            raise UserError(f"a sticker for these images is ({x.shape[1]}, size, size), not {tuple(patch.shape)}")
        _check_size(patch.shape[1], x)
        return paste(x, patch, generator(self.seed, x.device))

    def picture(self) -> torch.Tensor | None:
        return self.patch

    def _learn(self, problem: Problem) -> torch.Tensor:
        victim, x = problem.victim, problem.x
        check_images(victim, x)
        _check_size(self.size, x)
        low, high = (bound.to(x).expand(x.shape[1:]).flatten(1)[:, :1, None] for bound in (victim.low, victim.high))
        draw = generator(self.seed, x.device)
        # The sigmoid of it lies between the bounds.
        raw = torch.randn((x.shape[1], self.size, self.size), generator=draw, dtype=x.dtype, device=x.device)
        optimizer = torch.optim.Adam([raw.requires_grad_()], self.learning_rate)
        for _ in range(self.steps):
            rows = torch.randint(len(x), (min(self.batch_size, len(x)),), generator=draw, device=x.device)
            part = problem[rows]
            with torch.enable_grad():
                patch = low + (high - low) * torch.sigmoid(raw)
                losses = part.objective("ce")(victim.logits(paste(part.x, patch, draw)))
                if not losses.requires_grad:
                    raise NoGradient
                loss = self.smoothness * total_variation(patch[None])[0] - losses.mean()
                victim.n_backward += 1
                # Into the sticker alone: the victim's parameters are left without gradients.
                (raw.grad,) = torch.autograd.grad(loss, raw)
            optimizer.step()
            problem.queries.index_add_(0, rows, torch.ones_like(rows))
        return (low + (high - low) * torch.sigmoid(raw)).detach()


def _check_size(size: int, x: torch.Tensor) -> None:
    if size > min(x.shape[2:]):
        raise UserError(f"a sticker of {size} pixels does not fit on images of {tuple(x.shape[2:])}")


def paste(x: torch.Tensor, patch: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Images `(B, channels, height, width)` with a sticker `(channels, size, size)`, each at a random place."""
    size = patch.shape[1]
    room = torch.tensor([side - size + 1 for side in x.shape[2:]], device=x.device)
    top, left = (torch.rand((len(x), 2), generator=draw, device=x.device) * room).long().T[..., None]
    down = torch.arange(x.shape[2], device=x.device) - top  # Rows of the sticker, (B, height).
    along = torch.arange(x.shape[3], device=x.device) - left
    covered = ((down >= 0) & (down < size))[:, :, None] & ((along >= 0) & (along < size))[:, None, :]
    pixels = patch[:, down.clamp(0, size - 1)[:, :, None], along.clamp(0, size - 1)[:, None, :]].movedim(0, 1)
    return torch.where(covered[:, None], pixels, x)
