"""Perturbations for the physical world: they survive other views, print, and are smooth enough for a camera.

Expectation over transformations (Athalye et al., 2018); total variation and the non-printability score as in Sharif et
al., 2016.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from rltool.attacks.attack import BoundedAttack, Problem, check_positive, generator
from rltool.attacks.losses import LOSSES
from rltool.attacks.norms import Norm
from rltool.attacks.victim import NoGradient, Victim
from rltool.errors import UserError, unknown


@dataclass(frozen=True)
class Transformations:
    """Other views of an image: what each is changed by is drawn uniformly from plus or minus these.

    Attributes:
        shift: Along either side, as a share of it.
        rotation: In degrees.
        scale: By which factor, less 1.
        brightness: What is added to all pixels, as a share of the bounds' distance.
        noise: Standard deviation of Gaussian noise in every pixel, likewise.
    """

    shift: float = 0.1
    rotation: float = 15.0
    scale: float = 0.1
    brightness: float = 0.1
    noise: float = 0.02

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise UserError(f"{name} must be at least 0, not {value}")
        if self.scale >= 1:
            raise UserError(f"scale must be below 1, not {self.scale}")

    def views(self, victim: Victim, x: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
        """Differentiable views `(count * B, channels, height, width)` of images `(B, ...)`, all of the first one first.

        The draws are the same for all images. What comes in at the sides is the edge pixels.
        """

        def spread(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=draw, dtype=x.dtype, device=x.device) * 2 - 1

        angle = spread(count) * math.radians(self.rotation)
        size, shift = 1 + spread(count) * self.scale, 2 * self.shift * spread(count, 2)
        height, width = x.shape[2:]
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        # In grid_sample's units both sides are 2 long: a turn must know how long they are in pixels.
        first = torch.stack((cos, -sin * height / width, shift[:, 0]), 1)
        second = torch.stack((sin * width / height, cos, shift[:, 1]), 1)
        grid = F.affine_grid(torch.stack((first, second), 1), [count, 1, height, width], align_corners=False)
        # One view of all images at once: images lie along the channels.
        stacked = x.flatten(0, 1).expand(count, -1, -1, -1)
        seen = F.grid_sample(stacked, grid, padding_mode="border", align_corners=False)
        seen = seen.view(count, *x.shape)
        width_of_bounds = victim.high.to(x) - victim.low.to(x)
        light = self.brightness * spread(count, 1, 1, 1, 1)
        grain = torch.randn((count, 1, *x.shape[1:]), generator=draw, dtype=x.dtype, device=x.device) * self.noise
        return victim.clip((seen + (light + grain) * width_of_bounds).flatten(0, 1))

    def success(
        self,
        victim: Victim,
        x_adv: torch.Tensor,
        y: torch.Tensor,
        target: torch.Tensor | None = None,
        *,
        count: int = 100,
        seed: int = 0,
    ) -> torch.Tensor:
        """In which share of so many views the victim is wrong about images, or gives the target, `(B,)`."""
        with torch.no_grad(), victim.undisturbed():
            seen = self.views(victim, x_adv, count, generator(seed, x_adv.device))
            chosen = torch.cat([victim.logits(part) for part in seen.split(4_096)]).argmax(1).view(count, -1)
        return (chosen != y if target is None else chosen == target).to(x_adv).mean(0)


@dataclass(frozen=True, kw_only=True)
class Physical(BoundedAttack):
    """PGD on the mean loss over random views of each image, less what cameras and printers cannot do.

    max_x' E_T[L(T(x'))] - smoothness TV(x' - x) - printability NPS(x'). Every step draws new views, the same for all
    images. Success is judged on the image as it is; `Transformations.success` judges it on views.

    Attributes:
        steps: How many.
        step_size: Length of each, in the unit of epsilon; by default 2.5 * epsilon / steps.
        views: How many are looked at in each step.
        loss: What is maximized: ce, margin, dlr, or away-towards, the targeted loss of the notes.
        smoothness: Weight of the perturbation's total variation.
        printability: Weight of the non-printability score.
        shift: Of views, as a share of the sides.
        rotation: Of views, in degrees.
        scale: Of views, the factor less 1.
        brightness: Of views, as a share of the bounds' distance.
        noise: Of views, standard deviation of each pixel, likewise.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    continuous: ClassVar[bool] = False
    steps: int = 40
    step_size: float | None = None
    views: int = 16
    loss: str = "ce"
    smoothness: float = 0.0
    printability: float = 0.0
    shift: float = 0.1
    rotation: float = 15.0
    scale: float = 0.1
    brightness: float = 0.1
    noise: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(steps=self.steps, step_size=self.step_size, views=self.views)
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        if not (self.smoothness >= 0 and self.printability >= 0):
            raise UserError("smoothness and printability must be at least 0")
        _ = self.transformations

    @property
    def transformations(self) -> Transformations:
        """Where views are drawn from."""
        return Transformations(self.shift, self.rotation, self.scale, self.brightness, self.noise)

    def run(self, problem: Problem) -> torch.Tensor:
        victim, x, ball = problem.victim, problem.x, self.ball(problem)
        check_images(victim, x)
        draw, transformations = generator(self.seed, x.device), self.transformations
        everyone = torch.arange(len(x), device=x.device).repeat(self.views)
        objective = problem[everyone].objective(self.loss)
        length = 2.5 * ball.epsilon / self.steps if self.step_size is None else self.step_size
        now = x
        for _ in range(self.steps):
            now = now.detach().requires_grad_()
            with torch.enable_grad():
                seen = transformations.views(victim, now, self.views, draw)
                worth = objective(victim.logits(seen)).view(self.views, -1).mean(0)
                if not worth.requires_grad:
                    raise NoGradient
                if self.smoothness:
                    worth = worth - self.smoothness * total_variation(now - x)
                if self.printability:
                    worth = worth - self.printability * non_printability(now, printable(victim, x))
                victim.n_backward += 1
                (gradient,) = torch.autograd.grad(worth.sum(), now)
            problem.queries += self.views
            step = length * ball.steepest(gradient)
            now = victim.clip(x + ball.project(now.detach() + step - x))
        return now


def total_variation(x: torch.Tensor) -> torch.Tensor:
    """How rough images `(B, channels, height, width)` are, `(B,)`: the sum of sqrt(dx^2 + dy^2) over their pixels."""
    across = F.pad(x, (0, 1, 0, 0), mode="replicate").diff(dim=3)
    down = F.pad(x, (0, 0, 0, 1), mode="replicate").diff(dim=2)
    return (across.square() + down.square() + 1e-12).sqrt().flatten(1).sum(1)


def non_printability(x: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """How far images `(B, channels, height, width)` are from printable colors `(P, channels)`, `(B,)`.

    The mean over pixels of the product of their distances from all colors: 0 where each has one of the colors.
    """
    distances = (x[:, None] - colors[:, :, None, None]).square().sum(2).add(1e-12).sqrt()
    return distances.prod(1).flatten(1).mean(1)


def printable(victim: Victim, x: torch.Tensor) -> torch.Tensor:
    """Colors that a printer is taken to have: 10 %, 50 % and 90 % of the bounds' distance in every channel."""
    low, high = (bound.to(x).expand(x.shape[1:]).flatten(1)[:, 0] for bound in (victim.low, victim.high))
    shares = torch.tensor(list(itertools.product((0.1, 0.5, 0.9), repeat=x.shape[1])), dtype=x.dtype, device=x.device)
    return low + (high - low) * shares


def check_images(victim: Victim, x: torch.Tensor) -> None:
    """See that inputs are images with bounds.

    Raises:
        UserError: They are not.
    """
    if x.ndim != 4:
        raise UserError(f"this attack needs images (B, channels, height, width), not {tuple(x.shape)}")
    if not bool(victim.low.isfinite().all() and victim.high.isfinite().all()):
        raise UserError("this attack draws pixels between the bounds; give the victim finite ones")
