"""Features whose statistics are drawn together: CORAL and MMD."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rltool.adaptation.config import AlignmentConfig
from rltool.adaptation.learner import AdaptationLearner, Batch, Figures
from rltool.adaptation.losses import coral, mmd


class Alignment(AdaptationLearner):
    """Adds a distance between the features of the two domains to the loss."""

    config_class = AlignmentConfig
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def objective(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        source, target = self.both_features(batch)
        loss, logits = self.classify(source, batch.y)
        apart = type(self).distance(source, target)
        figures = {**self.figures(loss, logits, batch.y), "distance": apart.detach(), "weight": self.strength}
        return torch.add(loss, apart, alpha=self.strength), figures


class CORAL(Alignment):
    """Deep CORAL: the covariances of the features."""

    method, distance = "coral", staticmethod(coral)


class MMD(Alignment):
    """Deep adaptation network: all moments of the features, by kernels."""

    method, distance = "mmd", staticmethod(mmd)
