"""Adversarial reprogramming: a frame of pixels makes a network do another task (Elsayed et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from rltool.attacks.attack import check_positive, generator
from rltool.attacks.physical import check_images
from rltool.attacks.victim import NoGradient, Victim
from rltool.errors import UserError


@dataclass(frozen=True)
class Program:
    """A frame that turns a victim into a network for another task.

    Attributes:
        victim: What is reprogrammed; its weights are as they were.
        frame: The pixels `(channels, height, width)` around the small image.
        labels: Which of the victim's classes stands for each class of the task, `(classes,)`.
    """

    victim: Victim
    frame: torch.Tensor
    labels: torch.Tensor

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Small images `(B, channels, h, w)` in the middle of the frame, `(B, channels, height, width)`."""
        return _embedded(x, self.frame)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(B, classes)` of the task."""
        with torch.no_grad(), self.victim.undisturbed():
            return self.victim.logits(self.embed(x))[:, self.labels]

    def accuracy(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Share of small images whose class it gives."""
        return float((self.logits(x).argmax(1) == y).float().mean())


def reprogram(
    victim: Victim,
    x: torch.Tensor,
    y: torch.Tensor,
    shape: tuple[int, int, int],
    *,
    steps: int = 500,
    batch_size: int = 64,
    learning_rate: float = 0.05,
    decay: float = 1e-4,
    restarts: int = 2,
    seed: int = 0,
) -> Program:
    """Learn a frame that makes a victim do another task; its weights are not touched.

    X' = X + P with P = the frame, tanh between the bounds, outside of the small image: Adam minimizes the mean of
    -log P(h(y) | X') + decay ||W||^2. Class k of the task is class h(k) of the victim: the k-th of an order drawn at
    random for each start; of several starts the one with the smallest loss is kept.

    Args:
        victim: A classifier of images with bounds.
        x: Small images `(n, channels, h, w)`, within its bounds.
        y: Their labels `(n,)`, from 0 on.
        shape: Of the victim's images, `(channels, height, width)`.
        steps: Steps of Adam from each start.
        batch_size: Images that a step looks at.
        learning_rate: Step size of Adam.
        decay: Weight of the frame's size.
        restarts: How many starts.
        seed: Of what is drawn at random.

    Raises:
        UserError: The task does not fit into the victim.

    Example:
        >>> program = reprogram(victim, x_small, y_small, (1, 8, 8))  # doctest: +SKIP
        >>> program.accuracy(x_test, y_test)  # doctest: +SKIP
    """
    check_positive(steps=steps, batch_size=batch_size, learning_rate=learning_rate, restarts=restarts)
    check_images(victim, x)
    if x.shape[1] != shape[0] or x.shape[2] > shape[1] or x.shape[3] > shape[2] or x.shape[2:] == shape[1:]:
        raise UserError(f"images of {tuple(x.shape[1:])} leave no frame within {shape}; give smaller ones")
    if not len(x) or y.is_floating_point() or y.shape != x.shape[:1] or int(y.min()) < 0:
        raise UserError("y must hold one class, counted from 0, for each of the images, and there must be some")
    draw, classes = generator(seed, x.device), int(y.max()) + 1
    low, high = (bound.to(x) for bound in (victim.low, victim.high))
    frame = (low + high).expand(1, *shape) / 2
    if not torch.equal(victim.clip(_embedded(x, frame[0])), _embedded(x, frame[0])):
        raise UserError(f"x goes from {x.min():g} to {x.max():g}, outside the victim's bounds; scale it")
    best, smallest = None, torch.inf
    with victim.undisturbed():
        available = victim.check(frame).shape[1]
        if classes > available:
            raise UserError(f"the task has {classes} classes, the victim {available}; a class needs one of its own")
        for _ in range(restarts):
            labels = torch.randperm(available, generator=draw, device=x.device)[:classes]
            raw = torch.randn(shape, generator=draw, dtype=x.dtype, device=x.device).requires_grad_()
            optimizer = torch.optim.Adam([raw], learning_rate)
            recent = 0.0
            for step in range(steps):
                rows = torch.randint(len(x), (min(batch_size, len(x)),), generator=draw, device=x.device)
                with torch.enable_grad():
                    shown = _embedded(x[rows], low + (high - low) * (torch.tanh(raw) + 1) / 2)
                    loss = F.cross_entropy(victim.logits(shown), labels[y[rows]])
                    if not loss.requires_grad:
                        raise NoGradient
                    victim.n_backward += 1
                    # Into the frame alone: the victim's parameters are left without gradients.
                    (raw.grad,) = torch.autograd.grad(loss + decay * raw.square().sum(), raw)
                optimizer.step()
                if step >= 0.9 * steps:
                    recent += float(loss.detach())
            if recent < smallest:
                frame = (low + (high - low) * (torch.tanh(raw) + 1) / 2).detach()
                best, smallest = Program(victim, frame, labels), recent
    if best is None:
        raise UserError("the loss is no number from any start; lower the learning rate")
    return best


def _embedded(x: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[2:]
    top, left = (frame.shape[1] - height) // 2, (frame.shape[2] - width) // 2
    shown = frame.expand(len(x), *frame.shape).clone()
    shown[:, :, top : top + height, left : left + width] = x
    return shown
