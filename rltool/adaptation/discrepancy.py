"""Two label predictors that disagree where the target is far from the source: MCD."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from rltool.adaptation.config import MCDConfig
from rltool.adaptation.learner import AdaptationLearner, Batch, Figures
from rltool.adaptation.losses import discrepancy
from rltool.gan.learner import untrained


class MCD(AdaptationLearner):
    """Maximum classifier discrepancy.

    Each step has three parts: features and both predictors learn the labels; the predictors learn to disagree in the
    target while they stay right in the source; and the features learn to make them agree.
    """

    method, config_class = "mcd", MCDConfig
    config: MCDConfig

    def helpers(self) -> dict[str, nn.Module]:
        features, classes = self.model.backbone.out_features, self.model.num_classes
        second = nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, classes))
        return {"second": second}

    def both_losses(self, features: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of both predictors, and the logits of the first."""
        loss, logits = self.classify(features, y)
        return loss + F.cross_entropy(self.beside["second"](features), y), logits

    def disagreement(self, features: torch.Tensor) -> torch.Tensor:
        """How much the two predictors differ at features of the target."""
        return discrepancy(self.model.head(features), self.beside["second"](features))

    def update(self, batch: Batch) -> Figures:
        assert self.side_optimizer is not None
        weight = self.strength
        self.side_optimizer.learning_rate = self.optimizer.learning_rate
        loss, logits = self.both_losses(self.features(batch.x), batch.y)
        norm = self.step_both(loss)
        with torch.no_grad():
            source, target = self.both_features(batch)
        apart, _ = self.both_losses(source, batch.y)
        self.step_both(torch.sub(apart, self.disagreement(target), alpha=weight), freeze=self.model.backbone)
        for _ in range(self.config.generator_steps):
            with untrained(self.model.head), untrained(self.beside):
                agreed = self.disagreement(self.features(batch.target))
                self.step_both(agreed * weight, freeze=self.model.head, second=False)
        figures = self.figures(loss / 2, logits, batch.y)
        return {**figures, "discrepancy": agreed.detach(), "weight": weight, "grad_norm": norm}

    def step_both(self, loss: torch.Tensor, freeze: nn.Module | None = None, second: bool = True) -> float:
        """A step of the classifier, but for what is frozen, and, by the same gradient, of the second predictor."""
        assert self.side_optimizer is not None
        self.side_optimizer.gradient.zero_()
        self.optimizer.freeze([freeze] if freeze is not None else [])
        norm = self.step(loss)
        self.optimizer.freeze([])
        if second:
            self.side_optimizer.apply()
        return norm
