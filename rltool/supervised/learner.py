"""Training a classifier by its cross-entropy on minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional as F

from rltool.data.datasets import load_dataset
from rltool.data.examples import Dataset, Part, folds, split
from rltool.errors import TrainingError, UserError
from rltool.networks.backbone import copy_weights, evaluating
from rltool.supervised.augmentation import AUGMENTATIONS, mixup
from rltool.supervised.classifier import Classifier
from rltool.supervised.config import ClassifierConfig
from rltool.supervised.generated import generated_examples
from rltool.training.checkpoint import State, load_state, save_state
from rltool.training.device import find_device
from rltool.training.optimizers import OPTIMIZERS
from rltool.validation import validate

Callback = Callable[[Any, dict[str, Any]], bool | None]
LARGE_BATCH = 1_024  # Examples at once, where nothing is learned from them.


class ClassifierLearner:
    """Trains a `Classifier`; what varies how it learns overrides `loss`.

    Args:
        data: Name of a data set, or a file.
        config: Options.
        seed: Seeds weights, the order of examples, and what is held out.
        device: Where tensors live.
        env_kwargs: None: there is no environment.
        shape: Shape of one input and the number of classes, where the data are not to be loaded.

    Attributes:
        model: The classifier.
        timesteps: Examples learned from so far.
        converged: Whether `patience` is over.

    Raises:
        UserError: There are no such data, or an option is wrong.
    """

    method = "classifier"
    config_class: type[ClassifierConfig] = ClassifierConfig

    def __init__(
        self,
        data: str,
        config: ClassifierConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        env_kwargs: Mapping[str, Any] | None = None,
        shape: tuple[tuple[int, ...], int] | None = None,
    ) -> None:
        if env_kwargs:
            raise UserError("a classifier has no environment to give arguments to; leave --env-arg out")
        self.data, self.config, self.seed = data, config or self.config_class(), seed
        self.device = find_device(device)
        self.timesteps = self.total_timesteps = self.updates = self.stale = 0
        self.learning, self.converged, self.frozen_until = False, False, 0
        self.best = -math.inf
        self.rng = np.random.default_rng(seed)
        self.pending = np.empty(0, dtype=np.int64)
        input_shape, classes = shape or (self.dataset.train.x.shape[1:], len(self.dataset.classes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Classifier(self.config, input_shape, classes).to(self.device)
            self.torch_rng = torch.get_rng_state()
        if shape is None:
            self.model.normalize_by(self.examples[0][0])
        self.optimizer = OPTIMIZERS[self.config.optimizer](
            self.model, self.config.learning_rate, self.config.max_grad_norm
        )
        self.optimizer.weight_decay = self.config.weight_decay

    @cached_property
    def dataset(self) -> Dataset:
        """The data; loaded when first needed."""
        return load_dataset(self.data)

    @cached_property
    def examples(self) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and labels that are learned from, and those that choose the best weights."""
        train, config = self.dataset.train, self.config
        if config.folds:
            if config.fold is None:
                raise UserError(f"folds={config.folds} needs the part to hold out, fold=0 to {config.folds - 1}")
            part = folds(train.y, config.folds, self.seed)
            learned, held_out = np.flatnonzero(part != config.fold), np.flatnonzero(part == config.fold)
        else:
            learned, held_out = split(train.y, config.validation_fraction, self.seed)
        if not len(learned) or not len(held_out):
            option = "--folds" if config.folds else "--validation-fraction"
            raise UserError(f"{self.data} is too small to hold out {option} of it; give it another value")
        learn = train.select(learned)
        if config.augment_with is not None:
            count = round(len(learned) * config.augment_share / (1 - config.augment_share))
            made = generated_examples(config.augment_with, self.dataset, count, self.seed)
            learn = Part(np.concatenate([learn.x, made.x]), np.concatenate([learn.y, made.y]))
        return self._tensors(learn), self._tensors(train.select(held_out))

    def _tensors(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(part.x).to(self.device), torch.from_numpy(part.y).to(self.device)

    @property
    def budget(self) -> int | None:
        """Examples in `epochs`; None where the budget is given in examples."""
        return self.config.epochs and self.config.epochs * len(self.examples[0][1])

    def prepare(self) -> None:
        """Look at what training needs, before anything is written.

        Raises:
            UserError: Something is missing or does not fit.
        """
        _ = self.examples
        if self.config.augment and len(self.model.input_space.shape or ()) != 3:
            raise UserError(f"{self.data} holds points; --augment is for images")

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a minibatch is learned by: its mean loss, and the logits `(B, classes)` it comes from.

        Args:
            x: Inputs `(B, ...)`.
            y: Labels `(B,)`.
        """
        smoothing, alpha = self.config.label_smoothing, self.config.mixup
        if alpha:
            share = float(self.rng.beta(alpha, alpha))
            mixed, targets = mixup(x, F.one_hot(y, self.model.num_classes).float(), max(share, 1 - share))
            logits = self.model(mixed)  # More than half of each is what `y` says.
            return F.cross_entropy(logits, targets, label_smoothing=smoothing), logits
        logits = self.model(x)
        return F.cross_entropy(logits, y, label_smoothing=smoothing), logits

    def augment(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs `(B, ...)` as this minibatch shows them."""
        for name in self.config.augment:
            x = AUGMENTATIONS[name](x)
        return x

    def minibatch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Some of the examples that are learned from, changed at random, and their labels."""
        x, y = self.examples[0]
        return self.augment(x[rows]), y[rows]

    def train_step(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        """One step of the optimizer on a minibatch; returns its figures.

        Raises:
            TrainingError: The gradient is not finite; it has changed no weight.
        """
        self.optimizer.learning_rate = self.config.learning_rate * self.scheduled()
        loss, logits = self.loss(x, y)
        norm = self.optimizer.step(loss)
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient stopped being finite at example {self.timesteps:,}; lower --learning-rate"
            )
        accuracy = (logits.detach().argmax(-1) == y).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy, "grad_norm": norm}

    def scheduled(self) -> float:
        """Part of the learning rate that is used now: it rises during the warm-up, then follows the schedule."""
        done = self.timesteps / self.total_timesteps
        warmup = self.config.warmup
        if done < warmup:
            # The middle of the coming step, so that the first one is not lost.
            return (done + self.config.batch_size / self.total_timesteps / 2) / warmup
        part = (done - warmup) / (1 - warmup)
        return {"constant": 1.0, "linear": 1 - part, "cosine": (1 + math.cos(math.pi * part)) / 2}[self.config.schedule]

    def learn(
        self, total_timesteps: int, callback: Callback | Sequence[Callback] | None = None, *, resume: bool = False
    ) -> Self:
        """Learn from `total_timesteps` examples, or until `patience` is over.

        Args:
            total_timesteps: Budget.
            callback: Called after every step with the learner and the step's figures; False ends the training.
            resume: Count from where the learner stands.

        Raises:
            TrainingError: The gradient stopped being finite.
        """
        callbacks = callback if isinstance(callback, Sequence) else [callback] if callback else []
        if not resume:
            self.timesteps, self.converged = 0, False
        self.total_timesteps = total_timesteps
        count = len(self.examples[0][1])
        with torch.random.fork_rng(devices=[]):  # Dropout draws from the learner's own random numbers.
            torch.set_rng_state(self.torch_rng)
            self.learning = True
            try:
                while self.timesteps < total_timesteps and not self.converged:
                    if not len(self.pending):
                        self.pending = self.rng.permutation(count)
                    size = min(self.config.batch_size, total_timesteps - self.timesteps)
                    rows, self.pending = self.pending[:size], self.pending[size:]
                    self.optimizer.freeze([self.model.backbone] if self.timesteps < self.frozen_until else [])
                    figures = self.train_step(*self.minibatch(rows))
                    self.timesteps += len(rows)
                    self.updates += 1
                    answers = [each(self, figures) for each in callbacks]
                    if any(answer is False for answer in answers):
                        break
            finally:
                self.learning = False
                self.torch_rng = torch.get_rng_state()
        return self

    def metrics(self) -> dict[str, float]:
        """Figures of this moment for a row of metrics."""
        return {"train/learning_rate": self.optimizer.learning_rate, "train/n_updates": self.updates}

    # Evaluating

    @property
    def answering(self) -> Any:
        """The classifier that is evaluated and saved."""
        return self.model

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(n, classes)` of inputs `(n, ...)`, without gradients, in evaluation mode."""
        model = self.answering
        with torch.no_grad(), evaluating(model):
            return torch.cat([model(part) for part in x.split(LARGE_BATCH)])

    def evaluate(self, episodes: int = 0, seed: int = 0) -> dict[str, float]:
        """Accuracy and loss on the held-out training examples; `score` chooses the best weights."""
        x, y = self.examples[1]
        logits = self.logits(x)
        accuracy = float((logits.argmax(-1) == y).float().mean())
        loss = float(F.cross_entropy(logits, y))
        self.wait(accuracy)
        return {"accuracy": accuracy, "loss": loss, "score": accuracy}

    def wait(self, score: float) -> None:
        """Count the evaluations since the best one, after which `patience` ends the training."""
        if self.learning:
            better = score > self.best
            self.best, self.stale = max(score, self.best), 0 if better else self.stale + 1
            self.converged = 0 < self.config.patience <= self.stale

    def test(self) -> dict[str, Any]:
        """What comes out on the test examples, which chose nothing.

        Returns:
            `accuracy`, `loss`, `class_accuracy` by name, `examples`, and `confusion`: for each class, as what its
            examples were read, by how often.
        """
        x, y = self._tensors(self.dataset.test)
        logits = self.logits(x)
        classes = self.dataset.classes
        confusion = torch.bincount(y * len(classes) + logits.argmax(-1), minlength=len(classes) ** 2)
        counts = confusion.reshape(len(classes), -1).tolist()
        return {
            "accuracy": sum(row[k] for k, row in enumerate(counts)) / len(y),
            "loss": float(F.cross_entropy(logits, y)),
            "class_accuracy": {name: counts[k][k] / sum(counts[k]) for k, name in enumerate(classes) if any(counts[k])},
            "examples": len(y),
            "confusion": counts,
        }

    def conclude(self, run: Any, progress: Any) -> dict[str, Any]:
        """Measure the weights that were chosen on the test examples; draws `confusion_matrix.png`."""
        from rltool.training.plotting import draw_confusion

        run.agent.dataset = self.dataset  # There is no need to load it twice.
        result = run.agent.test()
        draw_confusion(run, np.array(result["confusion"]), self.dataset.classes)
        return {"test_accuracy": result["accuracy"], "test_loss": result["loss"]}

    # Starting from others

    def init_backbone(self, source: Any) -> None:
        """Take over the backbone of another classifier, or of an agent's policy.

        The statistics that inputs are normalized by stay those of these data.

        Raises:
            UserError: It has another shape, or there is none.
        """
        theirs = getattr(getattr(source, "policy", source), "backbone", None)
        if theirs is None:
            raise UserError("there is no backbone to start from")
        copy_weights([(self.model.backbone, theirs)], "the backbone")

    def init_policy(self, source: Any) -> None:
        """Refuse a policy.

        Raises:
            UserError: Always.
        """
        raise UserError("a classifier has no policy; start from a backbone with --init-backbone")

    def freeze_backbone(self, timesteps: int) -> None:
        """Leave the backbone as it is until this many examples were learned from."""
        self.frozen_until = timesteps

    # State

    def save(self, path: str | Path) -> None:
        """Write model and config to one safetensors file; nothing in it is executable."""
        description = {
            "format": 1,
            "method": self.method,
            "data": self.data,
            "config": self.config.model_dump(mode="json"),
            "shape": list(self.model.input_space.shape or ()),
            "num_classes": self.model.num_classes,
            "seed": self.seed,
        }
        save_state(Path(path), State(dict(self.answering.state_dict()), description))

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """Read what `save` wrote; the data are loaded when first needed.

        Raises:
            UserError: The file is missing, damaged or of another method.
        """
        state = load_state(Path(path))
        values = state.values
        if values.get("method") != cls.method:
            raise UserError(f"{path} holds no {cls.method}; load it with rltool.load")
        shape = (tuple(values["shape"]), values["num_classes"])
        config = validate(cls.config_class, values["config"])
        learner = cls(values["data"], config, seed=values["seed"], device=device, shape=shape)
        learner.load_weights(state.tensors)
        learner.model.eval()
        return learner

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over the weights of a classifier of the same shape."""
        self.model.load_state_dict(tensors)

    KEPT: tuple[str, ...] = ("timesteps", "total_timesteps", "updates", "converged", "stale")

    def checkpoint(self) -> State:
        """Everything that training goes on from, as one object."""
        state = State(values={name: getattr(self, name) for name in self.KEPT})
        state.values |= {
            "best": self.best if math.isfinite(self.best) else None,
            "optimizer_steps": self.optimizer.steps,
            "rng": self.rng.bit_generator.state,
        }
        state.add("model", self.model.state_dict())
        state.add("optimizer", self.optimizer.state())
        state.tensors["pending"] = torch.from_numpy(self.pending)
        state.tensors["torch_rng"] = torch.get_rng_state() if self.learning else self.torch_rng
        state.tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
        return state

    def restore(self, state: State) -> bool:
        """Go on from a checkpoint; returns whether training goes on bit for bit, which it does."""
        for name in self.KEPT:
            setattr(self, name, state.values[name])
        self.best = -math.inf if state.values["best"] is None else state.values["best"]
        self.model.load_state_dict(state.take("model"))
        self.optimizer.load_state(state.take("optimizer"), state.values["optimizer_steps"])
        self.rng.bit_generator.state = state.values["rng"]
        self.torch_rng = state.tensors["torch_rng"]
        self.pending = state.tensors["pending"].numpy().copy()
        return True
