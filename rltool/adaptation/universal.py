"""A target that lacks classes of the source, or has others: universal adaptation, which may answer "unknown"."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from rltool.adaptation.config import UniversalConfig
from rltool.adaptation.learner import AdaptationLearner, Batch, Figures
from rltool.adaptation.losses import binary_entropy, hardest_negative, one_vs_all


class Universal(AdaptationLearner):
    """One classifier for each class against all others; an example that each of them turns down is unknown.

    The source teaches them with the class that is most easily taken for the right one as the counterexample (Saito &
    Saenko, "OVANet", ICCV 2021), by the logits that its cross-entropy is of, too: which class is the difference of
    logits, whether it is one at all is the sign of the largest. In the target every one of them is made certain, and
    what the running mean of the weights is certain of is taken for labels, "unknown" among them. Nothing presupposes
    how frequent a class is, or that it is there.
    """

    method, config_class = "universal", UniversalConfig
    config: UniversalConfig
    open_set = True

    @property
    def rejecting(self) -> bool:
        return True

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        top, label = logits.max(-1)
        return torch.where(top > 0, label, logits.shape[1])

    def target_batch(self, count: int) -> torch.Tensor:
        return self.unlabeled_batch(count)  # The teacher's view; `objective` changes it.

    def objective(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        config = self.config
        with torch.no_grad():
            taught, label = self.averaged(batch.target).sigmoid().max(-1)
        source, target = self.both_features(batch._replace(target=self.augment(batch.target)))
        loss, logits = self.classify(source, batch.y)
        seen = self.model.head(target)
        known, unknown = (taught >= config.threshold).float(), (taught <= 1 - config.threshold).float()
        labeled = F.cross_entropy(seen, label, reduction="none") + one_vs_all(seen, label)
        adapting = (labeled * known + hardest_negative(seen) * unknown).mean()
        adapting = adapting + config.entropy_weight * binary_entropy(seen)
        figures = {"pseudo_labels": known.mean(), "rejected": unknown.mean(), "adaptation_loss": adapting.detach()}
        total = loss + one_vs_all(logits, batch.y).mean() + adapting * self.strength
        if config.mixed_weight:
            total = total + config.mixed_weight * self.mixed_loss(batch)
        return total, {**self.figures(loss, logits, batch.y), **figures, "weight": self.strength}

    def mixed_loss(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy of rejecting what is halfway between two examples of the source, of different classes."""
        order = torch.randperm(len(batch.x), device=batch.x.device)
        apart = (batch.y != batch.y[order]).float()
        logits = self.model((batch.x + batch.x[order]) / 2)
        return (hardest_negative(logits) * apart).sum() / apart.sum().clamp_min(1)
