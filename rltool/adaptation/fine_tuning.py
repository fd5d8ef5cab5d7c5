"""The source first, then a few labeled examples of the target."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rltool.adaptation.config import FineTuneConfig
from rltool.adaptation.learner import AdaptationLearner, Batch, Figures
from rltool.adaptation.losses import distance_to
from rltool.adaptation.selection import Validation
from rltool.errors import UserError
from rltool.networks.backbone import evaluating


class FineTune(AdaptationLearner):
    """Fine-tuning, the one method that is told labels of the target: `labels_per_class` of each class.

    So few are soon known by heart. Against that, the last layer alone may change, or the weights are drawn to those of
    the source (L2-SP), and a fifth of the labels, at least one of each class, chooses when to stop.
    """

    method, config_class = "fine-tune", FineTuneConfig
    config: FineTuneConfig
    uses_target, label_free = False, False

    def helpers(self) -> dict[str, nn.Module]:
        return {"start": copy.deepcopy(self.model).requires_grad_(False)}

    def prepare(self) -> None:
        super().prepare()
        if not self.domains.labeled:
            raise UserError(f"{self.domains.target.name} has no labels, a few of which fine-tune learns from")
        _ = self.labeled_target

    @cached_property
    def labeled_target(self) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """The examples of the target whose labels are known: those to learn from, and those that say when to stop."""
        part, per_class = self.domains.target.train, self.config.labels_per_class
        rng = np.random.default_rng((self.seed, 2))
        held_out = max(1, per_class // 5) if per_class > 1 else 0
        learned, stopping = [], []
        for label in np.unique(part.y):
            rows = rng.permutation(np.flatnonzero(part.y == label))[:per_class]
            if len(rows) < per_class:
                raise UserError(f"the target has {len(rows)} examples of class {label}; lower --labels-per-class")
            learned.append(rows[held_out:])
            stopping.append(rows[:held_out])
        return self._tensors(part.select(np.concatenate(learned))), self._tensors(part.select(np.concatenate(stopping)))

    @property
    def tuning(self) -> bool:
        """Whether the source is behind."""
        return self.progress >= self.config.source_share

    def update(self, batch: Batch) -> Figures:
        if not self.tuning:
            figures = super().update(batch)
            self.beside["start"].load_state_dict(self.model.state_dict())
            return figures
        config = self.config
        self.optimizer.learning_rate = config.target_learning_rate
        x, y = self.labeled_target[0]
        rows = torch.randint(len(y), (len(batch.y),), device=self.device)
        # What is not tuned is not moved by statistics of batches, either.
        with evaluating(self.model.backbone) if config.tune == "head" else nullcontext():
            logits = self.model(self.augment(x[rows]))
        loss = F.cross_entropy(logits, y[rows], label_smoothing=config.label_smoothing)
        figures = self.figures(loss, logits, y[rows])
        if config.tune == "l2-sp":
            start = list(self.beside["start"].parameters())
            loss = loss + config.l2_sp_weight * distance_to(start, list(self.model.parameters()))
        self.optimizer.freeze([self.model.backbone] if config.tune == "head" else [])
        return {**figures, "grad_norm": self.step(loss)}

    def score(self, seen: Validation, figures: Mapping[str, float]) -> float:
        """By the known labels that were held out, certainty second; before them, no weights are good enough."""
        if self.config.select in ("oracle", "last"):
            return super().score(seen, figures)
        if not self.tuning:
            return -2.0 + figures["accuracy"]
        x, y = self.labeled_target[1] if len(self.labeled_target[1][1]) else self.labeled_target[0]
        logits = self.logits(x)
        right: Any = (logits.argmax(-1) == y).float().mean()
        return float(right) - 0.01 * min(float(F.cross_entropy(logits, y)), 10.0)
