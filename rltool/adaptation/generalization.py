"""Several sources, and a target that nobody has seen: ERM, IRM, VREx, group DRO and MixStyle."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from rltool.adaptation.config import GeneralizationConfig
from rltool.adaptation.domains import split_name
from rltool.adaptation.learner import AdaptationLearner, Batch, Figures
from rltool.errors import UserError


class ERM(AdaptationLearner):
    """Empirical risk minimization: all sources alike; with random changes of images, domain randomization.

    What else generalizes overrides `risk`, which joins the losses of the sources.
    """

    method, config_class = "erm", GeneralizationConfig
    config: GeneralizationConfig
    uses_target = False
    needs_several = False

    def prepare(self) -> None:
        super().prepare()
        if self.needs_several and len(self.domains.sources) < 2:
            raise UserError(
                f"{self.method} compares several sources; join them with +, as digits+digits@-30deg:digits@60deg"
            )

    def objective(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        logits = self.logits_of(batch)
        losses = F.cross_entropy(logits, batch.y, label_smoothing=self.config.label_smoothing, reduction="none")
        groups = [batch.domain == k for k in range(len(self.domains.sources))]
        risk, figures = self.risk(logits, batch.y, losses, [group for group in groups if group.any()])
        return risk, {**self.figures(losses.mean(), logits, batch.y), **figures}

    def logits_of(self, batch: Batch) -> torch.Tensor:
        """Logits `(B, classes)` of a minibatch."""
        return self.model(batch.x)

    def risk(
        self, logits: torch.Tensor, y: torch.Tensor, losses: torch.Tensor, groups: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Figures]:
        """What is minimized, and its figures.

        Args:
            logits: `(B, classes)`.
            y: Labels `(B,)`.
            losses: Cross-entropy of each example `(B,)`.
            groups: For each source, which examples `(B,)` are from it.
        """
        return losses.mean(), {}


class IRM(ERM):
    """Invariant risk minimization: the same last layer is to be best in every source (Arjovsky et al., 2019)."""

    method, needs_several = "irm", True

    def risk(
        self, logits: torch.Tensor, y: torch.Tensor, losses: torch.Tensor, groups: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Figures]:
        penalties = []
        for group in groups:
            scale = torch.ones((), device=logits.device, requires_grad=True)
            loss = F.cross_entropy(logits[group] * scale, y[group])
            (gradient,) = torch.autograd.grad(loss, scale, create_graph=True)
            penalties.append(gradient.square())
        penalty = torch.stack(penalties).mean()
        return torch.add(losses.mean(), penalty, alpha=self.strength), {"penalty": penalty.detach()}


class VREx(ERM):
    """Risk extrapolation: the losses of the sources are to vary little (Krueger et al., ICML 2021)."""

    method, needs_several = "vrex", True

    def risk(
        self, logits: torch.Tensor, y: torch.Tensor, losses: torch.Tensor, groups: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Figures]:
        variance = torch.stack([losses[group].mean() for group in groups]).var(correction=0)
        return torch.add(losses.mean(), variance, alpha=self.strength), {"penalty": variance.detach()}


class Shares(nn.Module):
    """How much each source counts.

    Args:
        count: How many there are.
    """

    values: torch.Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((count,), 1 / count))


class GroupDRO(ERM):
    """Distributionally robust optimization: the hardest source counts most (Sagawa et al., ICLR 2020)."""

    method, needs_several = "group-dro", True

    def helpers(self) -> dict[str, nn.Module]:
        return {"shares": Shares(len(split_name(self.data)[0]))}

    def risk(
        self, logits: torch.Tensor, y: torch.Tensor, losses: torch.Tensor, groups: list[torch.Tensor]
    ) -> tuple[torch.Tensor, Figures]:
        means = torch.stack([losses[group].mean() for group in groups])
        shares = self.beside["shares"].values
        assert isinstance(shares, torch.Tensor)
        if len(groups) < len(shares):  # A small minibatch lacks one; nothing is known of it.
            return means.mean(), {"hardest": shares.max()}
        shares.mul_(torch.exp(self.config.group_step * means.detach()))
        shares.div_(shares.sum())
        return (shares.clone() * means).sum(), {"hardest": shares.max()}


class MixStyle(ERM):
    """The style of an example, mean and deviation of each channel, mixed with another's (Zhou et al., ICLR 2021).

    Styles are mixed at the input, channel by channel; for points, over all their coordinates.
    """

    method = "mixstyle"

    def logits_of(self, batch: Batch) -> torch.Tensor:
        x = (batch.x - self.model.mean) / self.model.std
        axes = (2, 3) if x.ndim == 4 else (1,)
        mean, std = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0) + 1e-5
        alpha = self.config.style_alpha
        share = torch.from_numpy(self.rng.beta(alpha, alpha, len(x))).to(x).view(-1, *(1 for _ in x.shape[1:]))
        other = torch.randperm(len(x), device=x.device)
        mixed_mean, mixed_std = (share * a + (1 - share) * a[other] for a in (mean, std))
        return self.model.head(self.model.backbone((x - mean) / std * mixed_std + mixed_mean))
