"""Features that a domain classifier cannot tell apart: DANN and CDAN."""

from __future__ import annotations

import torch
from torch import nn

from rltool.adaptation.config import DANNConfig
from rltool.adaptation.learner import AdaptationLearner, Batch, Figures
from rltool.adaptation.losses import domain_cross_entropy
from rltool.adaptation.networks import DomainClassifier


class DANN(AdaptationLearner):
    """Domain-adversarial training: the features learn from a domain classifier's gradient, reversed.

    The domain classifier has an optimizer of its own, so that it can be faster than the features that flee from it.
    """

    method, config_class = "dann", DANNConfig
    config: DANNConfig

    def helpers(self) -> dict[str, nn.Module]:
        return {"domain": DomainClassifier(self.seen_features, self.config.domain_sizes)}

    @property
    def seen_features(self) -> int:
        """Length of what the domain classifier sees."""
        return self.model.backbone.out_features

    def seen(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What the domain classifier sees of features `(B, d)` and the logits that come from them."""
        return features

    def objective(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        source, target = self.both_features(batch)
        loss, logits = self.classify(source, batch.y)
        figures = self.figures(loss, logits, batch.y)
        seen = self.seen(source, logits), self.seen(target, self.model.head(target))
        domain_loss, more = self.train_domain_classifier(*seen)
        return loss + domain_loss, {**figures, **more}

    def train_domain_classifier(self, source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, Figures]:
        """Some steps of the domain classifier; returns what the features are to minimize, and its figures."""
        config, domain, optimizer = self.config, self.beside["domain"], self.side_optimizer
        assert optimizer is not None
        rate = config.domain_learning_rate or config.learning_rate
        optimizer.learning_rate = rate * self.scheduled()
        known = torch.cat([source, target]).detach()
        for _ in range(config.domain_steps):
            inputs = known.requires_grad_(bool(config.domain_penalty))
            logits = domain(inputs)
            loss = domain_cross_entropy(*logits.split([len(source), len(target)]))
            if config.domain_penalty:
                (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
                loss = loss + config.domain_penalty * gradient.square().sum(1).mean()
            optimizer.descend(loss)
        fooled = domain.fooled(torch.cat([source, target]), self.strength).split([len(source), len(target)])
        right = (fooled[0] > 0).float().mean() + (fooled[1] < 0).float().mean()
        loss = domain_cross_entropy(*fooled)
        return loss, {"domain_loss": loss.detach(), "domain_accuracy": right.detach() / 2, "weight": self.strength}
