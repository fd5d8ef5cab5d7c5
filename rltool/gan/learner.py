"""Training a generator against a discriminator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import nn

from rltool.data.datasets import load_dataset
from rltool.data.examples import Dataset
from rltool.errors import UserError
from rltool.gan.augmentation import AUGMENTATIONS
from rltool.gan.config import GANConfig, LSGANConfig, SNGANConfig, WGANConfig, WGANGPConfig
from rltool.gan.losses import LOSSES
from rltool.gan.networks import Discriminator, Generator, Networks
from rltool.gan.penalties import PENALTIES
from rltool.gan.report import GenerationReport, Reference, evaluate_samples
from rltool.gan.unrolling import unrolled
from rltool.networks.backbone import copy_weights, evaluating
from rltool.training.checkpoint import State, load_state, save_state
from rltool.training.device import find_device
from rltool.training.optimizers import Adam, Optimizer, RMSprop
from rltool.validation import validate

WON_OUTRIGHT = (
    "the discriminator won outright: it told real from fake without effort, so the generator learned nothing more; try "
    "--penalty r1, another method (wgan-gp, sngan), a lower --learning-rate with a higher --generator-learning-rate, "
    "or, for few images, --augment shift,color"
)
Callback = Callable[[Any, dict[str, Any]], bool | None]
Figures = dict[str, torch.Tensor]
LARGE_BATCH = 1_024  # Samples at once, where nothing is learned from them.
FRAMES = 40  # Of the film of a training.
FILMED_POINTS, FILMED_IMAGES = 512, 36  # Samples in a frame.
LEVELS = 48  # Points along each axis at which the critic of points is filmed.
WON = 0.02  # Share of the loss of a discriminator that knows nothing, below which it has won.


class Batch(NamedTuple):
    """Real examples, and what they are conditioned on.

    Attributes:
        x: Examples `(n, ...)`.
        condition: Their conditions `(n, ...)`; None where there are none.
    """

    x: torch.Tensor
    condition: torch.Tensor | None = None


class GANLearner:
    """The training loop of all GANs, for examples of a data set.

    A method varies it by its config. What needs more overrides `networks`, `batch`, `generate`, `judge`,
    `discriminator_loss` or `generator_loss`.

    Args:
        data: Name of a data set, or a file or folder.
        config: Options.
        seed: Seeds weights, noise and minibatches.
        device: Where tensors live.
        env_kwargs: None: there is no environment.
        shape: Shape of one example, where the data are not to be loaded.

    Attributes:
        model: The networks; its generator is the one that is trained.
        averaged: The generator that makes samples: a running mean, or the same one.
        timesteps: Steps of the generator so far.

    Raises:
        UserError: There are no such data, or an option is wrong.
    """

    method = "gan"
    config_class: type[GANConfig] = GANConfig
    remedy = "lower --learning-rate, or take wgan-gp or sngan"  # Where numbers stop being finite.
    DESCRIBED: tuple[str, ...] = ("shape",)  # What is saved of the data, so that loading does without them.

    def __init__(
        self,
        data: str,
        config: GANConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        env_kwargs: Mapping[str, Any] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        if env_kwargs:
            raise UserError("a GAN has no environment to give arguments to; leave --env-arg out")
        self.data, self.config, self.seed = data, config or self.config_class(), seed
        self.device = find_device(device)
        self.timesteps = self.total_timesteps = 0
        self.learning = False
        self.loss = LOSSES[self.config.loss]
        self.shape = tuple(shape or self.dataset.train.x.shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator, discriminator = self.networks()
            self.rng_state = self._rng_states()
        self.model = Networks(generator, discriminator).to(self.device)
        if shape is None:
            self.normalize()
        self.generator_optimizer = self._optimizer(generator, self.config.generator_learning_rate)
        self.discriminator_optimizer = self._optimizer(discriminator, None)
        self.averaged: Any = copy.deepcopy(generator) if self.config.ema else generator
        self.film: dict[str, list[torch.Tensor]] = {}
        self._pairs: tuple[list[torch.Tensor], list[torch.Tensor]] = (
            list(self.averaged.parameters()),
            list(generator.parameters()),
        )

    def _optimizer(self, module: nn.Module, learning_rate: float | None) -> Optimizer:
        rate, config = learning_rate or self.config.learning_rate, self.config
        if config.optimizer == "adam":
            return Adam(module, rate, betas=(config.beta1, config.beta2), epsilon=1e-8)
        return RMSprop(module, rate)

    # What a method may change

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Fresh networks: the generator and the discriminator."""
        return Generator(self.config, self.shape), Discriminator(self.config, self.shape)

    def normalize(self) -> None:
        """Tell the networks the range of the data."""
        for network in (self.model.generator, self.model.discriminator):
            network.normalize_by(self.real)

    @cached_property
    def dataset(self) -> Dataset:
        """The data; loaded when first needed."""
        return load_dataset(self.data, labeled=False)

    @cached_property
    def real(self) -> torch.Tensor:
        """All training examples `(n, ...)`."""
        return torch.from_numpy(self.dataset.train.x).to(self.device)

    def batch(self) -> Batch:
        """Real examples, drawn at random."""
        return Batch(self.real[torch.randint(len(self.real), (self.config.batch_size,), device=self.device)])

    def generate(self, batch: Batch) -> torch.Tensor:
        """As many fakes, `(n, ...)`, under the same conditions."""
        return self.model.generator(self.model.generator.noise(self.config.batch_size), batch.condition)

    def judge(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of examples `(n, ...)`."""
        return self.model.discriminator(x)

    @property
    def discriminator_steps(self) -> int:
        """Steps of the discriminator for each of the generator."""
        return self.config.discriminator_steps

    def discriminator_loss(self) -> tuple[torch.Tensor, Figures]:
        """What a step of the discriminator minimizes, and its figures."""
        batch = self.batch()
        with torch.no_grad():
            fake = self.augment(self.generate(batch))
        real = self.augment(batch.x)
        real_logits, fake_logits = self.judge_both(real, fake, batch.condition)
        loss = self.loss.discriminator(real_logits, fake_logits)
        gap = real_logits.detach().mean() - fake_logits.detach().mean()
        figures = {"discriminator_loss": loss.detach(), "logit_gap": gap}
        if self.config.penalty != "none" and self.config.penalty_weight:
            scale, pack = self.model.discriminator.std, self.config.pack
            penalty = PENALTIES[self.config.penalty](lambda x: self.judge(x, batch.condition), real, fake, scale, pack)
            loss = torch.add(loss, penalty, alpha=self.config.penalty_weight)
            figures["penalty"] = penalty.detach()
        return loss, figures

    def generator_loss(self) -> tuple[torch.Tensor, Figures]:
        """What a step of the generator minimizes, and its figures."""
        batch = self.batch()
        fake = self.augment(self.generate(batch))
        loss = self.fooling_loss(fake, batch)
        figures = {"generator_loss": loss.detach()}
        if self.config.feature_matching:
            features = self.model.discriminator.features
            with torch.no_grad():
                wanted = features(self.augment(batch.x)).mean(0)
            distance = (features(fake).mean(0) - wanted).square().sum()
            loss = torch.add(loss, distance, alpha=self.config.feature_matching)
            figures["feature_distance"] = distance.detach()
        return loss, figures

    def fooling_loss(self, fake: torch.Tensor, batch: Batch) -> torch.Tensor:
        """How far the discriminator, as it is or after some steps, is from taking fakes `(n, ...)` for real."""
        judge = self.judge
        if self.config.unrolled_steps:
            judge = self.judge_ahead(fake, batch)
        fake_logits = judge(fake, batch.condition)
        real_logits = judge(self.augment(batch.x), batch.condition) if self.loss.compares else fake_logits
        return self.loss.generator(fake_logits, real_logits)

    def judge_both(
        self, real: torch.Tensor, fake: torch.Tensor, condition: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of real and of fake examples, in one pass where the two do not mix."""
        if self.config.mixes_examples or condition is not None:
            return self.judge(real, condition), self.judge(fake, condition)
        real_logits, fake_logits = self.judge(torch.cat([real, fake])).chunk(2)
        return real_logits, fake_logits

    def judge_ahead(self, fake: torch.Tensor, batch: Batch) -> Callable[..., torch.Tensor]:
        """`judge` by the discriminator after `unrolled_steps` steps on this minibatch, without penalties."""
        real, losses = self.augment(batch.x), self.loss.discriminator
        ahead = unrolled(
            self.model.discriminator,
            self.discriminator_optimizer,
            lambda judge: losses(judge(real), judge(fake)),
            self.config.unrolled_steps,
        )
        return lambda x, condition: ahead(x)

    def augment(self, x: torch.Tensor) -> torch.Tensor:
        """Examples `(n, ...)` as the discriminator sees them."""
        for name in self.config.augment:
            x = AUGMENTATIONS[name](x)
        return x

    # Learning

    def prepare(self) -> None:
        """Look at what training needs, before anything is written.

        Raises:
            UserError: Something is missing or does not fit.
        """
        if self.config.augment and len(self.shape) != 3:
            raise UserError(f"{self.data} holds points; --augment is for images")

    def train_step(self) -> Figures:
        """Some steps of the discriminator and one of the generator; returns figures of the last ones."""
        self._schedule()
        figures: Figures = {}
        generator, discriminator = self.model.generator, self.model.discriminator
        for _ in range(self.discriminator_steps):
            loss, figures = self.discriminator_loss()
            self.discriminator_optimizer.descend(loss)
            if self.config.weight_clip:
                self.discriminator_optimizer.parameters.clamp_(-self.config.weight_clip, self.config.weight_clip)
        with untrained(discriminator):
            loss, more = self.generator_loss()
            self.generator_optimizer.descend(loss)
        if self.averaged is not generator:
            self._average()
        return {**figures, **more}

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.timesteps) / (10 + self.timesteps))  # What is long ago counts little.
        with torch.no_grad():
            torch._foreach_lerp_(self._pairs[0], self._pairs[1], 1 - decay)
            for mine, theirs in zip(self.averaged.buffers(), self.model.generator.buffers(), strict=True):
                mine.copy_(theirs)

    def _schedule(self) -> None:
        part = self.timesteps / self.total_timesteps
        factor = {"constant": 1.0, "linear": 1 - part, "cosine": (1 + math.cos(math.pi * part)) / 2}[
            self.config.schedule
        ]
        rate = self.config.learning_rate
        self.discriminator_optimizer.learning_rate = rate * factor
        self.generator_optimizer.learning_rate = (self.config.generator_learning_rate or rate) * factor

    def learn(
        self, total_timesteps: int, callback: Callback | Sequence[Callback] | None = None, *, resume: bool = False
    ) -> Self:
        """Train until the generator has made `total_timesteps` steps.

        Args:
            total_timesteps: Budget.
            callback: Called after every step with the learner and the step's figures; False ends the training.
            resume: Count from where the learner stands.
        """
        callbacks = callback if isinstance(callback, Sequence) else [callback] if callback else []
        if not resume:
            self.timesteps, self.film = 0, {}
        self.total_timesteps = total_timesteps
        with torch.random.fork_rng(devices=self._cuda()):  # The learner has random numbers of its own.
            self._set_rng_states(self.rng_state)
            self.learning = True
            try:
                while self.timesteps < total_timesteps:
                    figures = self.train_step()
                    self.timesteps += 1
                    if self.timesteps * FRAMES // total_timesteps > (self.timesteps - 1) * FRAMES // total_timesteps:
                        self.take_frame()
                    answers = [each(self, figures) for each in callbacks]
                    if any(answer is False for answer in answers):
                        break
            finally:
                self.learning = False
                self.rng_state = self._rng_states()
        return self

    def metrics(self) -> dict[str, float]:
        """Figures of this moment for a row of metrics."""
        return {"train/learning_rate": self.discriminator_optimizer.learning_rate}

    # Sampling and measuring

    def sample(self, n: int, seed: int = 0, condition: torch.Tensor | None = None) -> np.ndarray:
        """Samples `(n, ...)` in the data's range.

        Args:
            n: How many.
            seed: Decides which.
            condition: Their conditions `(n, ...)`, where there are some.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        noise = self.averaged.noise(n, generator)
        parts = [slice(start, start + LARGE_BATCH) for start in range(0, n, LARGE_BATCH)]
        with torch.no_grad(), evaluating(self.averaged):
            made = [self.averaged(noise[part], None if condition is None else condition[part]) for part in parts]
        return torch.cat(made).cpu().numpy()

    def evaluate(self, episodes: int = 2_500, seed: int = 0) -> dict[str, float]:
        """What samples are worth; `score` chooses the best weights.

        Args:
            episodes: How many are drawn.
            seed: Decides which.
        """
        report = evaluate_samples(self.measured, self.reference, n=episodes, seed=seed, quick=True)
        figures = {name: each.value for name, each in report.figures.items()}
        return {**figures, "n_real": report.n_real, "n_fake": report.n_fake, "score": report.score}

    def measured(self, n: int, seed: int) -> Any:
        """Samples `(n, ...)` to be measured; where classes are asked for, these `(n,)` as well."""
        return self.sample(n, seed)

    @cached_property
    def reference(self) -> Reference:
        """The data as evaluations during the training see them."""
        return Reference(self.dataset)

    def test(self, n: int | None = None, seed: int = 0, extractor: str = "auto") -> GenerationReport:
        """All figures of samples, with their intervals and verdicts.

        Args:
            n: How many samples are drawn; by default enough for the data's modes.
            seed: Decides which.
            extractor: What images are seen through, as `rltool.gan.extractor.find_extractor` takes it.
        """
        return evaluate_samples(self.measured, self.dataset, n=n, seed=seed, extractor=extractor)

    def labeled_samples(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Samples `(n, ...)` and their classes `(n,)`, as a classifier of the data reads them where it is sure.

        Raises:
            UserError: The data have no labels to train one by, or it is sure of too few samples.
        """
        from rltool.gan.labeling import label_samples

        return label_samples(self.sample, self.dataset, n, seed)

    def usual_conditions(self, n: int) -> torch.Tensor | None:
        """What samples are where nobody asks, as conditions `(n, ...)`; None where there are none."""
        return None

    def read_condition(self, text: str, n: int) -> torch.Tensor:
        """What a user asks samples to be, as conditions `(n, ...)`.

        Raises:
            UserError: This generator takes none.
        """
        raise UserError(f"{self.method} makes samples without conditions; train one that takes them, as cgan")

    def take_frame(self) -> None:
        """Keep what the generator makes of always the same noise, and what the critic of points says of the plane."""
        images = len(self.shape) == 3
        if not images and self.shape != (2,):
            return
        samples = torch.from_numpy(self.sample(FILMED_IMAGES if images else FILMED_POINTS, seed=self.seed))
        frame = {"samples": (samples * 255).round().byte() if images else samples}
        if not images:
            frame["levels"] = torch.from_numpy(self.levels(LEVELS).astype(np.float32))
        for name, tensor in frame.items():
            self.film.setdefault(name, []).append(tensor)

    @cached_property
    def window(self) -> np.ndarray:
        """The part of the plane that pictures of points show: least and largest coordinates, `(2, 2)`."""
        x = self.dataset.train.x
        low, high = x.min(0), x.max(0)
        margin = 0.25 * float((high - low).max())
        return np.stack([low - margin, high + margin])

    def levels(self, resolution: int) -> np.ndarray:
        """Logits of points on a grid over `window`, `(resolution, resolution)`; rows go up."""
        low, high = self.window
        axes = [np.linspace(low[k], high[k], resolution, dtype=np.float32) for k in range(2)]
        points = torch.from_numpy(np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)).to(self.device)
        discriminator = self.model.discriminator
        packed = points.repeat_interleave(discriminator.pack, 0)  # Each with itself.
        with torch.no_grad(), evaluating(discriminator):
            return discriminator(packed).reshape(resolution, resolution).cpu().numpy()

    def conclude(self, run: Any, progress: Any) -> dict[str, Any] | None:
        """Draw what came out into the run's folder, and say so where the discriminator has won outright."""
        run.agent.dataset = self.dataset  # There is no need to load it twice.
        self.draw(run)
        rows = [row["train/discriminator_loss"] for row in run.metrics if "train/discriminator_loss" in row]
        won = self.has_won(rows)
        if won:
            progress.note(WON_OUTRIGHT)
        return {"discriminator_won": won}

    def draw(self, run: Any) -> None:
        """Draw what the weights that were kept make."""
        from rltool.gan.pictures import draw_run

        draw_run(run.agent, run.path, self.film)

    def has_won(self, losses: Sequence[float]) -> bool:
        """Whether the discriminator told real from fake without effort in the last quarter of a training.

        Then the generator learned nothing more. A Wasserstein critic may be sure: its gradient does not vanish.

        Args:
            losses: The discriminator's, over the training.
        """
        nothing = torch.zeros(1)
        ignorant = float(self.loss.discriminator(nothing, nothing))
        last = losses[-max(1, len(losses) // 4) :]
        return bool(last) and ignorant > 0 and sum(last) / len(last) < WON * ignorant

    # Starting from others

    def init_backbone(self, source: Any) -> None:
        """Start the discriminator from the backbone of a classifier, another GAN, or an agent's policy.

        Raises:
            UserError: It has another shape, or there is none.
        """
        theirs = getattr(getattr(source, "policy", source), "backbone", None)
        mine = self.model.backbone
        if theirs is None or mine is None:
            raise UserError("there is no backbone to start from")
        copy_weights([(mine, theirs)], "the backbone")

    def init_policy(self, source: Any) -> None:
        """Refuse a policy.

        Raises:
            UserError: Always.
        """
        raise UserError("a GAN has no policy; start its discriminator from a backbone with --init-backbone")

    def freeze_backbone(self, timesteps: int) -> None:
        """Refuse to freeze.

        Raises:
            UserError: Always.
        """
        raise UserError("a discriminator that does not learn is soon fooled; leave --freeze-backbone out")

    # State

    def save(self, path: str | Path) -> None:
        """Write networks and config to one safetensors file; nothing in it is executable.

        The generator in it is the one that makes samples.
        """
        description = {
            "format": 1,
            "method": self.method,
            "data": self.data,
            "config": self.config.model_dump(mode="json"),
            **{name: list(getattr(self, name)) for name in self.DESCRIBED},
            "seed": self.seed,
        }
        networks = Networks(self.averaged, self.model.discriminator)
        save_state(Path(path), State(dict(networks.state_dict()), description))

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
        config = validate(cls.config_class, values["config"])
        described: dict[str, Any] = {name: tuple(values[name]) for name in cls.DESCRIBED}
        learner = cls(values["data"], config, seed=values["seed"], device=device, **described)
        learner.model.load_state_dict(state.tensors)
        learner.averaged.load_state_dict(learner.model.generator.state_dict())
        learner.model.eval()
        return learner

    KEPT: tuple[str, ...] = ("timesteps", "total_timesteps")

    def checkpoint(self) -> State:
        """Everything that training goes on from, as one object."""
        state = State(values={name: getattr(self, name) for name in self.KEPT})
        state.add("model", self.model.state_dict())
        state.add("averaged", self.averaged.state_dict())
        for name, optimizer in self._optimizers().items():
            state.add(name, optimizer.state())
            state.values[f"{name}_steps"] = optimizer.steps
        state.add("film", {name: torch.stack(frames) for name, frames in self.film.items()})
        state.add("rng", self._rng_states() if self.learning else self.rng_state)
        state.tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
        return state

    def restore(self, state: State) -> bool:
        """Go on from a checkpoint; returns whether training goes on bit for bit, which it does."""
        for name in self.KEPT:
            setattr(self, name, state.values[name])
        self.model.load_state_dict(state.take("model"))
        self.averaged.load_state_dict(state.take("averaged"))
        for name, optimizer in self._optimizers().items():
            optimizer.load_state(state.take(name), state.values[f"{name}_steps"])
        self.film = {name: list(frames) for name, frames in state.take("film").items()}
        self.rng_state = state.take("rng")
        return True

    def _optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def _cuda(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def _rng_states(self) -> dict[str, torch.Tensor]:
        """States of PyTorch's random numbers, of the CPU and of the GPU in use."""
        states = {"cpu": torch.get_rng_state()}
        if self._cuda():
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_rng_states(self, states: Mapping[str, torch.Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        for device in self._cuda():
            torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def untrained(module: nn.Module) -> Iterator[None]:
    """No gradients of the module's weights inside; they pass through it all the same."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class GAN(GANLearner):
    """Generative adversarial network: Goodfellow et al., "Generative adversarial nets", NIPS 2014."""


class LSGAN(GANLearner):
    """Least squares GAN."""

    method, config_class = "lsgan", LSGANConfig


class WGAN(GANLearner):
    """Wasserstein GAN with clipped weights."""

    method, config_class = "wgan", WGANConfig


class WGANGP(GANLearner):
    """Wasserstein GAN with gradient penalty."""

    method, config_class = "wgan-gp", WGANGPConfig


class SNGAN(GANLearner):
    """GAN with spectral normalization."""

    method, config_class = "sngan", SNGANConfig
