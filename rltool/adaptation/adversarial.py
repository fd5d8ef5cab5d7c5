"""Features that a domain classifier cannot tell apart: DANN, CDAN and ADDA."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rltool.adaptation.checks import gradient_into_features, refuse_inert
from rltool.adaptation.config import ADDAConfig, CDANConfig, DANNConfig
from rltool.adaptation.learner import AdaptationLearner, Batch, Figures
from rltool.adaptation.losses import domain_cross_entropy, outer
from rltool.adaptation.networks import DomainClassifier
from rltool.adaptation.selection import Validation
from rltool.errors import UserError
from rltool.networks.backbone import evaluating
from rltool.supervised.learner import LARGE_BATCH

BEFORE = 1e6  # Taken off the score of weights that are not adapted yet.


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
        target_logits = self.model.head(target)
        seen = self.seen(source, logits), self.seen(target, target_logits)
        domain_loss, more = self.train_domain_classifier(*seen, self.importance(torch.cat([logits, target_logits])))
        return loss + domain_loss, {**figures, **more}

    def importance(self, logits: torch.Tensor) -> torch.Tensor | None:
        """How much each example `(n,)` of both domains counts for the domain classifier; None: all alike."""
        return None

    def train_domain_classifier(
        self, source: torch.Tensor, target: torch.Tensor, importance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Figures]:
        """Some steps of the domain classifier; returns what the features are to minimize, and its figures.

        Args:
            source: What it sees of the source `(n, d)`.
            target: What it sees of the target `(m, d)`.
            importance: How much each of them counts, `(n + m,)`.
        """
        config, optimizer = self.config, self.side_optimizer
        domain: Any = self.beside["domain"]
        assert optimizer is not None
        optimizer.learning_rate = (config.domain_learning_rate or config.learning_rate) * self.scheduled()
        both, count = torch.cat([source, target]), len(source)
        for _ in range(config.domain_steps):
            known = both.detach().requires_grad_(bool(config.domain_penalty))
            logits = domain(known)
            loss = domain_cross_entropy(logits[:count], logits[count:], importance)
            if config.domain_penalty:
                (gradient,) = torch.autograd.grad(logits.sum(), known, create_graph=True)
                loss = loss + config.domain_penalty * gradient.square().sum(1).mean()
            optimizer.descend(loss)
        loss, logits = self.fooling(source, target, self.strength, importance)
        told = ((logits[:count] > 0).float().mean() + (logits[count:] < 0).float().mean()) / 2
        return loss, {"domain_loss": loss.detach(), "domain_accuracy": told, "weight": self.strength}

    def fooling(
        self, source: torch.Tensor, target: torch.Tensor, strength: float, importance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the features are to minimize, by a gradient that is reversed, and the domain classifier's logits."""
        domain: Any = self.beside["domain"]
        logits = domain.fooled(torch.cat([source, target]), strength)
        return domain_cross_entropy(logits[: len(source)], logits[len(source) :], importance), logits

    def prepare(self) -> None:
        super().prepare()
        if not self.config.weight:
            raise UserError(f"with --weight 0, {self.method} adapts nothing; take source-only")

    def evaluate(self, episodes: int = 0, seed: int = 0) -> dict[str, float]:
        figures = super().evaluate(episodes, seed)
        if self.learning:  # What is loaded has no domain classifier any more.
            figures["adversary_gradient"] = self.check_adversary()
        return figures

    def conclude(self, run: Any, progress: Any) -> Any:
        self.check_adversary()
        return super().conclude(run, progress)

    def check_adversary(self) -> float:
        """Norm of the gradient that the domain classifier gives the features of held-out examples.

        Raises:
            TrainingError: There is none: it is inert.
        """
        (x, _), target = self.examples[1], self.unlabeled[1]

        def loss(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            seen = [self.seen(each, self.model.head(each)) for each in (source, target)]
            return self.fooling(seen[0], seen[1], strength=1.0)[0]

        with evaluating(self.model):
            with torch.no_grad():
                features = [self.features(part[:LARGE_BATCH]) for part in (x, target)]
            gradient = gradient_into_features(loss, *features)
        refuse_inert(gradient, float(self.last_figures.get("domain_accuracy", 0.0)))
        return gradient


class CDAN(DANN):
    """Conditional adversarial adaptation: the domain classifier also sees which class is predicted."""

    method, config_class = "cdan", CDANConfig
    config: CDANConfig

    @property
    def seen_features(self) -> int:
        return self.model.backbone.out_features * self.model.num_classes

    def seen(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return outer(features, logits.detach().softmax(-1))

    def importance(self, logits: torch.Tensor) -> torch.Tensor | None:
        if not self.config.entropy_weighting:
            return None
        log_p = logits.detach().log_softmax(-1)
        weights = 1 + (log_p.exp() * log_p).sum(-1).exp()  # 1 + e^-H: 2 for a certain prediction.
        return weights / weights.mean()


class ADDA(DANN):
    """Adversarial discriminative adaptation: source first, then the target's features, against those of the source.

    The features of the source stay where they were, and those of the target start from them and flee from a domain
    classifier until it cannot tell the two apart; the label predictor is not changed any more.
    """

    method, config_class = "adda", ADDAConfig
    config: ADDAConfig

    def helpers(self) -> dict[str, nn.Module]:
        return {**super().helpers(), "source": copy.deepcopy(self.model.backbone).requires_grad_(False)}

    def update(self, batch: Batch) -> Figures:
        if self.progress < self.config.source_share:
            loss, logits = self.loss(batch.x, batch.y)
            norm = self.step(loss)
            self.beside["source"].load_state_dict(self.model.backbone.state_dict())
            return {**self.figures(loss, logits, batch.y), "grad_norm": norm}
        self.optimizer.learning_rate = self.config.target_learning_rate * self.scheduled()
        with torch.no_grad():
            source = self.beside["source"]((batch.x - self.model.mean) / self.model.std)
            loss, logits = self.classify(source, batch.y)
        target = self.features(batch.target)
        fooled, more = self.train_domain_classifier(source, target)
        self.optimizer.freeze([self.model.head])
        norm = self.step(fooled)
        self.optimizer.freeze([])
        return {**self.figures(loss, logits, batch.y), **more, "grad_norm": norm}

    def fooling(
        self, source: torch.Tensor, target: torch.Tensor, strength: float, importance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The target is to be taken for the source."""
        logits = self.beside["domain"](torch.cat([source, target]))
        return strength * F.softplus(-logits[len(source) :]).mean(), logits

    def embed_source(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed_by(self.beside["source"], x) if self.knows_source else self.embed(x)

    def source_logits(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), evaluating(self.answering):
            return self.answering.head(self.embed_source(x))

    def score(self, seen: Validation, figures: Mapping[str, float]) -> float:
        """As of every method; before the target's features move, no weights are good enough."""
        score = super().score(seen, figures)
        return score if self.progress >= self.config.source_share or self.config.select == "oracle" else score - BEFORE
