"""Adaptation of batch norm alone: AdaBN, and Tent at test time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rltool.adaptation.config import BatchNormConfig, TentConfig
from rltool.adaptation.learner import AdaptationLearner
from rltool.adaptation.losses import entropy
from rltool.errors import UserError
from rltool.supervised.learner import LARGE_BATCH
from rltool.training.checkpoint import State
from rltool.training.optimizers import Adam

Norm = nn.modules.batchnorm._BatchNorm


def batch_norms(module: nn.Module) -> list[Norm]:
    """The layers whose statistics can be adapted."""
    return [layer for layer in module.modules() if isinstance(layer, Norm) and layer.running_mean is not None]


def adapt_statistics(model: nn.Module, x: torch.Tensor, prior: int = 0) -> None:
    """Replace the statistics of all batch norms by those of examples of the target, layer after layer.

    Args:
        model: Changed in place.
        x: Examples `(n, ...)`; a single one will do where there is a prior, or the layers read images.
        prior: The statistics that are there count as so many examples more (Schneider et al., NeurIPS 2020).
    """
    share = len(x) / (len(x) + prior)

    def measure(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        mean, var = inputs[0].mean(axes), inputs[0].var(axes, correction=0)
        apart = (mean - layer.running_mean).square() * share * (1 - share)
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(var, share).add_(apart)

    handles = [layer.register_forward_pre_hook(measure) for layer in batch_norms(model)]
    try:
        with torch.no_grad():
            model.eval()
            model(x)  # Each layer sees what those before, adapted already, make of it.
    finally:
        for handle in handles:
            handle.remove()


class AdaBN(AdaptationLearner):
    """Adaptive batch normalization: the source's classifier with the statistics of the target."""

    method, config_class = "adabn", BatchNormConfig
    config: BatchNormConfig
    uses_target = False
    loaded = False
    adapted: tuple[int, Any] | None = None  # After how many updates, and the classifier.

    def prepare(self) -> None:
        super().prepare()
        if not batch_norms(self.model):
            raise UserError(
                f"{self.method} adapts batch norm, and this backbone has none; take --batch-norm with the mlp, or "
                "--backbone resnet --resnet-norm batch"
            )

    def freeze_backbone(self, timesteps: int) -> None:
        """Refuse.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{self.method} changes the batch norm of a backbone, frozen or not; leave --freeze-backbone out"
        )

    @property
    def answering(self) -> Any:
        """The classifier with the statistics of the target; one that was loaded has them already."""
        if self.loaded:
            return self.averaged
        if self.adapted is None or self.adapted[0] != self.updates:
            model = copy.deepcopy(self.averaged)
            self.adapt(model)
            self.adapted = self.updates, model
        return self.adapted[1]

    def embed_source(self, x: torch.Tensor) -> torch.Tensor:
        """With the source's statistics, as long as they are there."""
        return self.embed(x) if self.loaded else self.embed_by(self.averaged.backbone, x)

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().load_weights(tensors)
        self.loaded = True

    def restore(self, state: State) -> bool:
        self.adapted = None
        return super().restore(state)

    def sentences(self, result: Mapping[str, Any]) -> list[str]:
        own = ["the source was read with the target's statistics, too: its own are not kept"]
        return [*super().sentences(result), *(own if self.method == "adabn" else [])]

    def adapt(self, model: nn.Module) -> None:
        """Change a classifier of the source in place."""
        x = self.unlabeled[0]
        adapt_statistics(model, x[:: max(1, len(x) // (2 * LARGE_BATCH))], self.config.prior)


class Tent(AdaBN):
    """Test-time adaptation: each batch of the target changes statistics, scales and shifts before it is predicted.

    Nothing of the target is seen while training. The classifier that is saved is the source's, and every call of
    `logits` starts from it; `test_batch=1` adapts to one example at a time.
    """

    method, config_class = "tent", TentConfig
    config: TentConfig

    @property
    def answering(self) -> Any:
        return self.averaged

    def predict_stream(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(n, classes)` of a stream of examples of the target, adapting to each batch on the way."""
        config = self.config
        model = copy.deepcopy(self.averaged).requires_grad_(False)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for layer in batch_norms(model):
            layer.requires_grad_(True)
        optimizer = Adam(model, config.test_learning_rate, epsilon=1e-8)
        buffers = dict(model.named_buffers())
        found = []
        for part in x.split(config.test_batch):
            for name, buffer in buffers.items():
                buffer.copy_(start[name])  # Statistics are those of this batch, with the source's as the prior.
            adapt_statistics(model, part, config.prior)
            logits = model(part)
            found.append(logits.detach())
            optimizer.descend(entropy(logits))
        return torch.cat(found)

    def test(self) -> dict[str, Any]:
        return self.measure(self.logits, self.predict_stream)
