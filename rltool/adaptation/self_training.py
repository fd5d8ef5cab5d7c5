"""Predictions of the target that are made certain: entropy minimization with pseudo-labels, VADA and DIRT-T."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from rltool.adaptation.adversarial import DANN
from rltool.adaptation.config import DIRTTConfig, SelfTrainingConfig
from rltool.adaptation.learner import AdaptationLearner, Batch, Figures
from rltool.adaptation.losses import divergence, entropy, marginal_entropy, virtual_adversarial


class SelfTraining(AdaptationLearner):
    """Entropy minimization with self-training: a teacher's certain predictions are the target's labels.

    The teacher is the running mean of the classifier and sees the target as it is, the classifier sees it changed at
    random (Tarvainen & Valpola, "Mean teachers", NIPS 2017; French et al., "Self-ensembling", ICLR 2018). The variety
    of predictions is kept up, for a certain classifier is most easily one that always says the same.
    """

    method, config_class = "entropy", SelfTrainingConfig
    config: SelfTrainingConfig

    def target_batch(self, count: int) -> torch.Tensor:
        return self.unlabeled_batch(count)  # The teacher's view; `objective` changes it.

    def objective(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        config = self.config
        with torch.no_grad():
            taught, label = self.averaged(batch.target).softmax(-1).max(-1)
        source, target = self.both_features(batch._replace(target=self.augment(batch.target)))
        loss, logits = self.classify(source, batch.y)
        seen = self.model.head(target)
        sure = (taught >= config.threshold).float()
        adapting = (F.cross_entropy(seen, label, reduction="none") * sure).mean()
        if config.entropy_weight:
            adapting = adapting + config.entropy_weight * entropy(seen)
        if config.diversity_weight:
            adapting = adapting - config.diversity_weight * marginal_entropy(seen)
        figures = {"pseudo_labels": sure.mean(), "adaptation_loss": adapting.detach(), "weight": self.strength}
        return torch.add(loss, adapting, alpha=self.strength), {**self.figures(loss, logits, batch.y), **figures}


class DIRTT(DANN):
    """VADA, then decision-boundary iterative refinement with a teacher.

    Classes are taken to keep apart in the target as in the source, so that a good boundary passes where no examples
    are. VADA adds that to DANN: predictions are certain (entropy), and do not change near an example (virtual
    adversarial training). The second stage leaves the source behind, and moves the boundary further away from the
    target's examples, in steps that keep predictions near those of a teacher, the running mean of the classifier.
    """

    method, config_class = "dirt-t", DIRTTConfig
    config: DIRTTConfig

    @property
    def refining(self) -> bool:
        """Whether this is the second stage."""
        return self.progress >= self.config.first_stage

    def clusters(self, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """How badly the target's examples keep away from the boundary."""
        config = self.config
        smoothness = virtual_adversarial(self.model, x, logits, config.radius * float(self.model.std.mean()))
        loss = config.entropy_weight * entropy(logits) + config.smoothness_weight * smoothness
        return loss - config.diversity_weight * marginal_entropy(logits)

    def objective(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        return self.refine(batch) if self.refining else self.learn_both(batch)

    def learn_both(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        """The first stage, VADA."""
        config = self.config
        source, target = self.both_features(batch)
        loss, logits = self.classify(source, batch.y)
        figures: Mapping[str, object] = self.figures(loss, logits, batch.y)
        seen = self.model.head(target)
        domain_loss, more = self.train_domain_classifier(source, target)
        near = virtual_adversarial(self.model, batch.x, logits, config.radius * float(self.model.std.mean()))
        adapting = self.clusters(batch.target, seen) + config.smoothness_weight * near
        total = loss + domain_loss * config.domain_weight + adapting * self.strength
        return total, {**figures, **more, "adaptation_loss": adapting.detach()}

    def refine(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        """The second stage: the target alone, held back by the teacher."""
        with torch.no_grad():
            taught = self.averaged(batch.target)
        logits = self.model(batch.target)
        near = divergence(taught, logits)
        loss = self.clusters(batch.target, logits) + near * self.config.teacher_weight
        with torch.no_grad():
            known, source_logits = self.loss(batch.x, batch.y)
        figures = self.figures(known, source_logits, batch.y)
        return loss * self.config.weight, {
            **figures,
            "adaptation_loss": loss.detach(),
            "teacher_distance": near.detach(),
        }
