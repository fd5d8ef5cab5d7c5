"""Training a classifier for a target domain whose labels nobody knows: the loop that all methods share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rltool.adaptation.augmentation import AUGMENTATIONS
from rltool.adaptation.config import AdaptationConfig
from rltool.adaptation.domains import Domains, load_domains, split_name
from rltool.adaptation.selection import CRITERIA, Validation
from rltool.adaptation.verdict import UNKNOWN, collapse, effective_classes, h_score
from rltool.data.examples import Dataset
from rltool.data.shifts import split_shifts
from rltool.errors import TrainingError, UserError
from rltool.networks.backbone import evaluating
from rltool.supervised.learner import LARGE_BATCH, ClassifierLearner
from rltool.training.checkpoint import State
from rltool.training.optimizers import Adam

OTHER_SHARES = 0.2  # Total variation of the classes' shares from which it is said that they differ.

Figures = dict[str, Any]
Predict = Callable[[torch.Tensor], torch.Tensor]


class Batch(NamedTuple):
    """What a step learns from.

    Attributes:
        x: Examples of the source `(B, ...)`.
        y: Their labels `(B,)`.
        target: Examples of the target `(B, ...)`.
        domain: Which source each of `x` is from, `(B,)`.
    """

    x: torch.Tensor
    y: torch.Tensor
    target: torch.Tensor
    domain: torch.Tensor


class AdaptationLearner(ClassifierLearner):
    """The training loop of all methods; without a method it learns the source alone.

    A method overrides `objective`, what a step minimizes; one that takes several kinds of steps overrides `update`.
    Networks beside the classifier are made in `helpers`: they are trained and kept, but not part of the result.

    Args:
        data: `source:target`.
        config: Options.
        seed: Seeds weights, the order of examples, and what is held out.
        device: Where tensors live.
        env_kwargs: None: there is no environment.
        shape: Shape of one input and the number of classes, where the data are not to be loaded.

    Attributes:
        averaged: What predicts: the classifier, or a running mean of it.
        beside: The networks beside it.

    Raises:
        UserError: There are no such domains, or an option is wrong.
    """

    method = "source-only"
    config_class: type[AdaptationConfig] = AdaptationConfig
    config: AdaptationConfig
    uses_target = True  # Whether unlabeled examples of the target are learned from.
    label_free = True  # Whether its labels are never learned from.
    open_set = False  # Whether it can do with classes of the target that the source lacks.

    def __init__(
        self,
        data: str,
        config: AdaptationConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        env_kwargs: Mapping[str, Any] | None = None,
        shape: tuple[tuple[int, ...], int] | None = None,
    ) -> None:
        super().__init__(data, config, seed=seed, device=device, env_kwargs=env_kwargs, shape=shape)
        self.rows = np.empty(0, dtype=np.int64)
        self.knows_source = False  # Whether what read the source, where that is something of its own, is here.
        self.last_figures: Figures = {}
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.torch_rng)
            self.beside = nn.ModuleDict(self.helpers()).to(self.device)
            self.torch_rng = torch.get_rng_state()
        self.side_optimizer: Adam | None = None
        if any(weight.requires_grad for weight in self.beside.parameters()):
            self.side_optimizer = Adam(self.beside, self.config.learning_rate, self.config.max_grad_norm)
        for optimizer in (self.optimizer, self.side_optimizer):
            if isinstance(optimizer, Adam):
                optimizer.betas = getattr(self.config, "beta1", 0.9), 0.999
        self.averaged = copy.deepcopy(self.model) if self.config.ema else self.model
        self._pairs: tuple[list[torch.Tensor], list[torch.Tensor]] = (
            list(self.averaged.parameters()),
            list(self.model.parameters()),
        )

    # The domains

    @cached_property
    def domains(self) -> Domains:
        """All domains; loaded when first needed."""
        return load_domains(self.data)

    @cached_property
    def dataset(self) -> Dataset:
        """What labels are learned from: the source."""
        return self.domains.source

    @cached_property
    def unlabeled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Training examples of the target: those that are learned from, and those that are held out."""
        x = torch.from_numpy(self.domains.target.train.x).to(self.device)
        held_out = self.held_out_target
        return x[~held_out], x[held_out]

    @cached_property
    def held_out_target(self) -> np.ndarray:
        """Which rows of the target's training part are held out `(n,)`; chosen without looking at labels."""
        n = len(self.domains.target.train)
        count = max(1, round(self.config.validation_fraction * n))
        held_out = np.zeros(n, dtype=bool)
        held_out[np.random.default_rng((self.seed, 1)).permutation(n)[:count]] = True
        return held_out

    @cached_property
    def domain_of(self) -> torch.Tensor:
        """Which source each example that is learned from comes from `(n,)`."""
        x = self.examples[0][0]
        if len(self.domains.sources) == 1:
            return torch.zeros(len(x), dtype=torch.int64, device=self.device)
        return self._source_numbers.to(self.device)

    @cached_property
    def _source_numbers(self) -> torch.Tensor:
        from rltool.data.examples import split

        sizes = [len(each.train) for each in self.domains.sources]
        numbers = np.repeat(np.arange(len(sizes)), sizes)
        learned, _ = split(self.dataset.train.y, self.config.validation_fraction, self.seed)
        return torch.from_numpy(numbers[learned])

    def prepare(self) -> None:
        """Look at what training needs, before anything is written.

        Raises:
            UserError: Something is missing or does not fit.
        """
        if self.config.mixup:
            raise UserError("mixup would mix labels that the target lacks; leave --mixup out")
        if self.config.folds:
            raise UserError("folds divide the source alone and say nothing of the target; leave --folds out")
        super().prepare()
        if self.domains.open and not self.open_set:
            raise UserError(
                f"{self.domains.target.name} has classes that {self.domains.source.name} lacks, which {self.method} "
                "would take for its own; universal answers 'unknown'"
            )
        if self.config.select == "oracle" and not self.domains.labeled:
            raise UserError(f"{self.domains.target.name} has no labels, which --select oracle chooses by")
        if len(self.unlabeled[0]) < 2:
            count = len(self.domains.target.train)
            counted = "a single training example" if count == 1 else f"{count} training examples"
            raise UserError(f"{self.domains.target.name} has {counted}, too few to adapt to; give at least 10")

    # What a method may change

    def helpers(self) -> dict[str, nn.Module]:
        """Networks beside the classifier, by name."""
        return {}

    def objective(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        """What a step minimizes, and its figures."""
        loss, logits = self.loss(batch.x, batch.y)
        return loss, self.figures(loss, logits, batch.y)

    def update(self, batch: Batch) -> Figures:
        """Learn from a minibatch; returns its figures."""
        loss, figures = self.objective(batch)
        return {**figures, "grad_norm": self.step(loss)}

    # Parts of such

    def figures(self, loss: torch.Tensor, logits: torch.Tensor, y: torch.Tensor) -> Figures:
        """What every method reports of the source's part."""
        return {"loss": loss.detach(), "accuracy": (logits.detach().argmax(-1) == y).float().mean()}

    def classify(self, features: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of labeled features, and their logits."""
        logits = self.model.head(features)
        return F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing), logits

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Features `(B, out_features)` of inputs."""
        return self.model.backbone((x - self.model.mean) / self.model.std)

    def both_features(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the source and of the target, in one pass."""
        features = self.features(torch.cat([batch.x, batch.target]))
        return features[: len(batch.x)], features[len(batch.x) :]

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return self.timesteps / max(self.total_timesteps, 1)

    @property
    def strength(self) -> float:
        """Weight of what adapts at this moment of the training."""
        schedule: dict[str, Callable[[float], float]] = {
            "sigmoid": lambda p: 2 / (1 + math.exp(-10 * p)) - 1,
            "linear": lambda p: p,
            "constant": lambda p: 1.0,
        }
        config: Any = self.config
        return config.weight * schedule[config.weight_schedule](self.progress)

    def step(self, loss: torch.Tensor) -> float:
        """One step of the classifier; returns the gradient's norm.

        Raises:
            TrainingError: The gradient is not finite; it has changed no weight.
        """
        norm = self.optimizer.step(loss)
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient stopped being finite at example {self.timesteps:,}; lower --learning-rate"
            )
        return norm

    # Learning

    def augment(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.config.augment:
            x = AUGMENTATIONS[name](x)
        return x

    def minibatch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        self.rows = rows
        return super().minibatch(rows)

    def unlabeled_batch(self, count: int) -> torch.Tensor:
        """Examples of the target, drawn at random."""
        x = self.unlabeled[0]
        return x[torch.randint(len(x), (count,), device=self.device)]

    def target_batch(self, count: int) -> torch.Tensor:
        """Examples of the target, drawn at random, as this minibatch shows them."""
        return self.augment(self.unlabeled_batch(count))

    def train_step(self, x: torch.Tensor, y: torch.Tensor) -> Figures:
        """One step on a minibatch of the source and one of the target; returns its figures."""
        self.knows_source = True
        self.optimizer.learning_rate = self.config.learning_rate * self.scheduled()
        target = self.target_batch(len(x)) if self.uses_target else x[:0]
        figures = self.update(Batch(x, y, target, self.domain_of[self.rows]))
        if self.averaged is not self.model:
            self._average()
        self.last_figures = figures
        return figures

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.updates) / (10 + self.updates))  # What is long ago counts little.
        with torch.no_grad():
            torch._foreach_lerp_(self._pairs[0], self._pairs[1], 1 - decay)
            for mine, theirs in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
                mine.copy_(theirs)

    # Evaluating

    @property
    def answering(self) -> Any:
        return self.averaged

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Features `(n, out_features)` of inputs, without gradients, in evaluation mode."""
        return self.embed_by(self.answering.backbone, x)

    def embed_by(self, backbone: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """The same by another backbone."""
        with torch.no_grad(), evaluating(backbone):
            parts = [backbone((part - self.model.mean) / self.model.std) for part in x.split(LARGE_BATCH)]
            return torch.cat(parts)

    def embed_source(self, x: torch.Tensor) -> torch.Tensor:
        """The same for inputs of the source, which some methods see with other eyes."""
        return self.embed(x)

    @property
    def rejecting(self) -> bool:
        """Whether an answer may be that it is none of the source's classes."""
        return self.open_set and self.domains.open

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        """The answers `(n,)` that logits `(n, classes)` stand for; after the source's classes, that it is unknown.

        Where the target has other classes, what is taken for one with less than even odds is unknown.
        """
        p, label = logits.softmax(-1).max(-1)
        return torch.where(p < 0.5, len(self.domains.source.classes), label) if self.rejecting else label

    def validation(self) -> Validation:
        """What chooses weights: held-out examples of both domains as they are seen now."""
        x, y = self.examples[1]
        source, target = self.embed_source(x), self.embed(self.unlabeled[1])
        head = self.answering.head
        with torch.no_grad():
            return Validation(source, target, head(source), head(target), y)

    def evaluate(self, episodes: int = 0, seed: int = 0) -> dict[str, float]:
        """Figures of held-out examples; `score` chooses the best weights.

        Returns:
            `accuracy` and `loss` in the source; `target_entropy`; `target_accuracy` where the target has labels, which
            is only watched, unless `select` is "oracle".
        """
        seen = self.validation()
        figures = {
            "accuracy": float((seen.source_logits.argmax(-1) == seen.y).float().mean()),
            "loss": float(F.cross_entropy(seen.source_logits, seen.y)),
            "target_entropy": -CRITERIA["entropy"](seen),
        }
        if self.domains.labeled:
            labels = torch.from_numpy(self.domains.target.train.y[self.held_out_target]).to(self.device)
            figures["target_accuracy"] = float((self.decide(seen.target_logits) == labels).float().mean())
        score = self.score(seen, figures)
        self.wait(score)
        return {**figures, "score": score}

    def score(self, seen: Validation, figures: Mapping[str, float]) -> float:
        """What chooses the best weights; the larger, the better."""
        select = self.config.select
        if select == "oracle":
            return figures["target_accuracy"]
        return CRITERIA[select](seen)

    def test(self) -> dict[str, Any]:
        """What comes out on the test examples of both domains, which chose nothing.

        Returns:
            `source_accuracy`, and `source_accuracies` by name where there are several; `target_accuracy`,
            `class_accuracy` by name and `confusion` of the target, where it has labels, and `h_score` with its parts
            where some are of no class of the source; `predicted`, the share of the target that is read as each class;
            `examples` of the target.
        """
        return self.measure(self.source_logits, self.logits)

    def source_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(n, classes)` of inputs of the source."""
        return self.logits(x)

    def measure(self, in_source: Predict, in_target: Predict) -> dict[str, Any]:
        """`test` for functions from inputs `(n, ...)` to logits, one for each domain."""
        source, target = self.domains.source.test, self.domains.target.test
        read = self.decide(in_source(torch.from_numpy(source.x).to(self.device))).cpu().numpy()
        predicted = self.decide(in_target(torch.from_numpy(target.x).to(self.device))).cpu().numpy()
        classes = (*self.domains.source.classes, UNKNOWN) if self.rejecting else self.domains.source.classes
        shares = np.bincount(predicted, minlength=len(classes)) / max(len(predicted), 1)
        result: dict[str, Any] = {"source_accuracy": float((read == source.y).mean())}
        if len(self.domains.sources) > 1:  # Their test parts stand one after the other.
            ends = np.cumsum([len(each.test) for each in self.domains.sources])[:-1]
            right = np.split(read == source.y, ends)
            names = [each.name for each in self.domains.sources]
            result["source_accuracies"] = {name: float(each.mean()) for name, each in zip(names, right, strict=True)}
        if self.domains.labeled:
            counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
            np.add.at(counts, (target.y, predicted), 1)
            result |= {
                "target_accuracy": float((predicted == target.y).mean()),
                "class_accuracy": {n: counts[k, k] / counts[k].sum() for k, n in enumerate(classes) if counts[k].any()},
                "confusion": counts.tolist(),
            }
        if self.domains.open:
            result |= h_score(result["class_accuracy"])
        return {**result, "predicted": dict(zip(classes, shares.tolist(), strict=True)), "examples": len(predicted)}

    def sentences(self, result: Mapping[str, Any]) -> list[str]:
        """What is to be said of what `test` returned."""
        target = split_name(self.data)[1]
        base = split_shifts(target)[0]
        lines = [*self.differing_classes(), *collapse(result["predicted"], self.true_classes(result))]
        if self.domains.labeled and self.label_free and self.config.select != "oracle" and Path(base).exists():
            lines.append(f"{target} has labels: they taught and chose nothing, they only measured this")
        if self.config.select == "oracle":
            lines.append(
                "the target's labels chose these weights (--select oracle): this is no adaptation without them"
            )
        return lines

    def true_classes(self, result: Mapping[str, Any]) -> float:
        """How many classes there are to read in the target, counted by their entropy; known where it has labels."""
        if not self.domains.labeled:
            return float(len(self.domains.source.classes))
        counts = np.array(result["confusion"]).sum(1) / result["examples"]
        return effective_classes(dict(zip(result["predicted"], counts.tolist(), strict=True)))

    def differing_classes(self) -> list[str]:
        """How the target's classes are known to differ from the source's, in a sentence."""
        if not self.domains.labeled:
            return []
        classes = self.domains.source.classes
        parts = [each.train.y for each in (self.domains.source, self.domains.target)]
        there, here = (np.bincount(y[y < len(classes)], minlength=len(classes)) for y in parts)
        lacking = [name for name, count in zip(classes, here, strict=True) if not count]
        if lacking:
            return [f"the target has no examples of the source's classes {', '.join(lacking)}"]
        apart = np.abs(there / there.sum() - here / here.sum()).sum() / 2
        if apart < OTHER_SHARES:
            return []
        return [
            f"{apart:.0%} of the target would need another class for these to be as frequent as in the source, a label "
            "shift; dann, coral, mmd and entropy presuppose that they are, source-only does not"
        ]

    def conclude(self, run: Any, progress: Any) -> Any:
        """Measure the chosen weights, train the controls, draw, and say what it was worth."""
        from rltool.adaptation.controls import conclude

        run.agent.domains = self.domains  # There is no need to load them twice.
        run.agent.beside.load_state_dict(self.beside.state_dict())
        run.agent.knows_source = True
        return conclude(self, run, progress)

    # State

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().load_weights(tensors)
        self.averaged.load_state_dict(tensors)

    def checkpoint(self) -> State:
        state = super().checkpoint()
        state.add("averaged", {k: t.detach().clone() for k, t in self.averaged.state_dict().items()})
        state.add("beside", {k: t.detach().clone() for k, t in self.beside.state_dict().items()})
        if self.side_optimizer is not None:
            state.add("side", {k: t.detach().clone() for k, t in self.side_optimizer.state().items()})
            state.values["side_steps"] = self.side_optimizer.steps
        return state

    def restore(self, state: State) -> bool:
        exact = super().restore(state)
        self.knows_source = True
        self.averaged.load_state_dict(state.take("averaged"))
        self.beside.load_state_dict(state.take("beside"))
        if self.side_optimizer is not None:
            self.side_optimizer.load_state(state.take("side"), state.values["side_steps"])
        return exact


class SourceOnly(AdaptationLearner):
    """No adaptation: the classifier of the source, as it comes."""

    uses_target, open_set = False, True


class TargetOracle(AdaptationLearner):
    """What is reached by learning from the target's labels: not an adaptation, but what one is measured by."""

    method, uses_target, label_free, open_set = "target-oracle", False, False, True

    @cached_property
    def dataset(self) -> Dataset:
        """What labels are learned from: the target."""
        if not self.domains.labeled:
            raise UserError(f"{self.domains.target.name} has no labels, which target-oracle learns from")
        return self.domains.target

    @cached_property
    def domain_of(self) -> torch.Tensor:
        return torch.zeros(len(self.examples[0][0]), dtype=torch.int64, device=self.device)
