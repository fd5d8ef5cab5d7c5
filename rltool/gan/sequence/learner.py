"""Training a generator of tokens against a discriminator, by policy gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional as F

from rltool.agents.advantages import explained_variance
from rltool.agents.ppo import approx_kl, clip_fraction, clipped_objective
from rltool.data.sequences import Sequences, as_text, load_sequences, valid_tokens
from rltool.errors import TrainingError, UserError
from rltool.gan.losses import LOSSES
from rltool.gan.sequence.config import SeqGANConfig
from rltool.gan.sequence.credit import assign_credit, last_rewards, last_tokens, prefix_rewards, rollout_rewards
from rltool.gan.sequence.decoding import ALL, Decoder, LanguageModel, beam_search, generate
from rltool.gan.sequence.metrics import bleu, shares
from rltool.gan.sequence.networks import SequenceNetworks
from rltool.networks.backbone import copy_weights, evaluating
from rltool.training.checkpoint import State, load_state, save_state
from rltool.training.device import find_device
from rltool.training.optimizers import Adam
from rltool.validation import validate

Callback = Callable[[Any, dict[str, Any]], bool | None]
Figures = dict[str, Any]
LARGE_BATCH = 512  # Sequences at once, where nothing is learned from them.
REFERENCES = 2_000  # Test sequences that samples are compared with.


class SeqGAN:
    """Trains a `SequenceGenerator` by maximum likelihood first, then on what a discriminator says of its sequences.

    Args:
        data: "oracle", "oracle-N", "grammar", or a text file.
        config: Options.
        seed: Seeds weights, minibatches and what is generated.
        device: Where tensors live.
        env_kwargs: None: there is no environment.
        vocabulary: Tokens, the length of a sequence, the token that ends it and what stands between two in a text;
            where the data are not to be loaded.

    Attributes:
        model: Both networks.
        timesteps: Sequences that the generator learned from so far.
        playing: Whether the game has begun, after the pretraining.

    Raises:
        UserError: There are no such data, or an option is wrong.
    """

    method = "seqgan"
    config_class = SeqGANConfig

    def __init__(
        self,
        data: str,
        config: SeqGANConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        env_kwargs: Mapping[str, Any] | None = None,
        vocabulary: tuple[Sequence[str], int, int | None, str] | None = None,
    ) -> None:
        if env_kwargs:
            raise UserError("a sequence GAN has no environment to give arguments to; leave --env-arg out")
        self.data, self.config, self.seed = data, config or SeqGANConfig(), seed
        self.device = find_device(device)
        self.timesteps = self.total_timesteps = 0
        self.learning = self.playing = False
        self.rng = np.random.default_rng(seed)
        self.pending = np.empty(0, dtype=np.int64)
        if vocabulary is None:
            loaded = self.dataset
            vocabulary = (loaded.vocabulary, loaded.length, loaded.end, loaded.separator)
        self.vocabulary, self.length, self.end, self.separator = vocabulary
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = SequenceNetworks(self.config, len(self.vocabulary), self.length).to(self.device)
            self.torch_rng = torch.get_rng_state()
        self.generator, self.discriminator = self.model.generator, self.model.discriminator
        self.optimizer = Adam(self.generator, self.config.pretraining_learning_rate, self.config.max_grad_norm)
        self.discriminator_optimizer = Adam(
            self.discriminator, self.config.discriminator_learning_rate, self.config.max_grad_norm
        )
        self.loss = LOSSES[self.config.discriminator_loss]

    @cached_property
    def dataset(self) -> Sequences:
        """The data; loaded when first needed."""
        return load_sequences(self.data, self.config.tokens, self.config.max_length)

    def prepare(self) -> None:
        """Look at what training needs, before anything is written.

        Raises:
            UserError: Something is missing or does not fit.
        """
        if len(self.dataset.train) < self.config.batch_size:
            raise UserError(
                f"{self.data} has {len(self.dataset.train)} sequences to learn from, fewer than a minibatch; lower "
                "--batch-size"
            )

    # Maximum likelihood

    @property
    def imitating(self) -> bool:
        """Whether the likelihood of the data is what is learned now."""
        return self.config.control == "mle" or self.timesteps < self.config.pretraining

    def real(self) -> np.ndarray:
        """The next minibatch of real sequences `(n, L)`; each is seen once before any is seen again."""
        size = self.config.batch_size
        if len(self.pending) < size:
            self.pending = self.rng.permutation(len(self.dataset.train))
        rows, self.pending = self.pending[:size], self.pending[size:]
        return self.dataset.train[rows]

    def likelihood_loss(self, tokens: np.ndarray, own_share: float = 0.0) -> torch.Tensor:
        """Negative log-likelihood of sequences `(n, L)` in nats per token.

        Args:
            tokens: The sequences.
            own_share: Share of tokens that the generator reads from itself instead.
        """
        truth, valid = self._tensor(tokens), self._tensor(self.valid(tokens)).flatten()
        read = self._tensor(self.mixed(tokens, own_share)) if own_share else None
        distribution, _ = self.generator(truth, read)
        return -distribution.log_prob(truth.flatten())[valid].mean()

    def mixed(self, tokens: np.ndarray, own_share: float) -> np.ndarray:
        """Sequences `(n, L)` in which tokens are replaced by what the generator draws after those before.

        Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural networks", NIPS 2015.
        """
        model, mixed = self.language_model(), tokens.copy()
        before, state = np.full(len(tokens), model.words), model.start(len(tokens))
        replaced = self.rng.random(tokens.shape) < own_share
        for t in range(self.length):
            logits, state = model.step(before, state)
            mixed[:, t] = before = np.where(replaced[:, t], ALL.choose(logits, self.rng), tokens[:, t])
        return mixed

    def imitate(self) -> Figures:
        """One step along the likelihood of the data."""
        config = self.config
        self.optimizer.learning_rate = config.pretraining_learning_rate
        until = self.total_timesteps if config.control == "mle" else config.pretraining
        loss = self.likelihood_loss(self.real(), config.scheduled_sampling * min(1.0, self.timesteps / max(until, 1)))
        norm = self._step(loss)
        self.timesteps += config.batch_size
        return {"nll": loss.detach(), "grad_norm": norm}

    # The game

    def play(self) -> Figures:
        """A round: sequences are generated, judged, and learned from; then the discriminator learns."""
        config = self.config
        if not self.playing:
            self.playing = True
            self.optimizer.reset()
            self.optimizer.learning_rate = config.learning_rate
            for _ in range(config.discriminator_pretraining if config.control == "none" else 0):
                self.discriminate()
        tokens = generate(self.language_model(), config.batch_size, self.rng)
        figures = self.improve(tokens, self.reward(tokens))
        if config.control == "none":
            told = [self.discriminate() for _ in range(config.discriminator_steps)]
            figures |= told[-1]
        return figures

    def discriminate(self) -> Figures:
        """One step of the discriminator, on real sequences and on fresh ones of the generator."""
        real, fake = self.real(), generate(self.language_model(), self.config.batch_size, self.rng)
        both = np.concatenate([real, fake])
        valid = self._tensor(self.valid(both))
        real_logits, fake_logits = self.discriminator(self._tensor(both)).chunk(2)
        if self.discriminator.causal:
            real_logits, fake_logits = (x[v] for x, v in zip((real_logits, fake_logits), valid.chunk(2), strict=True))
        loss = self.loss.discriminator(real_logits, fake_logits)
        norm = self.discriminator_optimizer.step(loss)
        if not math.isfinite(norm):
            raise TrainingError("the discriminator's gradient stopped being finite; lower its learning rate")
        right = ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean()) / 2
        return {"discriminator_loss": loss.detach(), "discriminator_accuracy": right.detach()}

    def judge(self, tokens: np.ndarray) -> np.ndarray:
        """Verdicts on sequences `(n, L)`: `(n, L)` after each token where credit is of prefixes, else `(n, 1)`."""
        with torch.no_grad(), evaluating(self.discriminator):
            logits = torch.cat([self.discriminator(part) for part in self._tensor(tokens).split(LARGE_BATCH)])
        squash = {"logit": lambda x: x, "probability": torch.sigmoid, "log": F.logsigmoid}[self.config.reward]
        return squash(logits).cpu().numpy()

    def reward(self, tokens: np.ndarray) -> np.ndarray:
        """Rewards `(L, n)` of the tokens of generated sequences `(n, L)`."""
        done = last_tokens(self.valid(tokens).T)
        if self.config.control == "constant":
            ones = np.ones(len(tokens), np.float32)
            return np.ones(done.shape, np.float32) if self.config.credit == "rollouts" else last_rewards(ones, done)
        if self.config.credit == "rollouts":
            return rollout_rewards(self.judge, self.language_model(), tokens, self.config.rollouts, self.rng)
        verdicts = self.judge(tokens)
        return prefix_rewards(verdicts) if self.config.credit == "prefixes" else last_rewards(verdicts[:, 0], done)

    def improve(self, tokens: np.ndarray, rewards: np.ndarray) -> Figures:
        """Steps of the generator along the policy gradient.

        Args:
            tokens: What it generated, `(n, L)`.
            rewards: What its tokens are rewarded by, `(L, n)`.
        """
        config, valid = self.config, self.valid(tokens)
        actions, rows = self._tensor(tokens), self._tensor(valid).flatten()
        reward = (rewards * valid.T).sum() / (valid.sum() if config.credit == "rollouts" else len(tokens))
        worth = None
        if config.all_tokens and self.discriminator.causal and config.control == "none":
            worth = self.worth(actions)[rows]
            rewards = config.gamma * np.concatenate([rewards[1:], np.zeros_like(rewards[:1])])
        with torch.no_grad():
            distribution, values = self.generator(actions)
            old_log_prob = distribution.log_prob(actions.flatten())[rows]
        old_values = values.cpu().numpy()
        advantages, returns = assign_credit(rewards, old_values.T, valid.T, config)
        weights, targets = self._tensor(advantages.T).flatten()[rows], self._tensor(returns.T).flatten()[rows]
        figures: Figures = {"reward": float(reward)}
        if config.baseline == "value":
            figures |= explained_variance(returns.T[valid], old_values[valid])
        for _ in range(config.num_epochs if config.objective == "ppo" else 1):
            distribution, values = self.generator(actions)
            log_prob = distribution.log_prob(actions.flatten())[rows]
            log_ratio = log_prob - old_log_prob
            if config.objective == "ppo":
                loss = clipped_objective(log_ratio, weights, config.clip_range)
            else:
                loss = -(weights * log_prob).mean()
            if worth is not None:
                loss = loss - (distribution.log_probs[rows].exp() * worth).sum(1).mean()
            figures["policy_gradient_loss"] = loss.detach()
            if config.baseline == "value":
                loss = loss + config.vf_coef * F.mse_loss(values.flatten()[rows], targets)
            entropy = distribution.entropy()[rows].mean()
            if config.ent_coef:
                loss = loss - config.ent_coef * entropy
            if config.teacher_forcing:
                loss = loss + config.teacher_forcing * self.likelihood_loss(self.real())
            figures |= {"entropy": entropy.detach(), "grad_norm": self._step(loss)}
            log_ratio = log_ratio.detach()
            figures |= {"approx_kl": approx_kl(log_ratio), "clip_fraction": clip_fraction(log_ratio, config.clip_range)}
            self.timesteps += len(tokens)
        return figures

    def worth(self, tokens: torch.Tensor) -> torch.Tensor:
        """The reward of each token that could stand at each place of sequences `(n, L)`, as rows `(n L, words)`."""
        with torch.no_grad(), evaluating(self.discriminator):
            return self.discriminator.speaks_for(tokens).flatten(0, 1)

    def learn(
        self, total_timesteps: int, callback: Callback | Sequence[Callback] | None = None, *, resume: bool = False
    ) -> Self:
        """Learn until the generator has learned from `total_timesteps` sequences.

        Args:
            total_timesteps: Budget.
            callback: Called after every step or round with the learner and its figures; False ends the training.
            resume: Count from where the learner stands.

        Raises:
            TrainingError: A gradient stopped being finite.
        """
        callbacks = callback if isinstance(callback, Sequence) else [callback] if callback else []
        if not resume:
            self.timesteps = 0
        self.total_timesteps = total_timesteps
        with torch.random.fork_rng(devices=[]):  # Dropout draws from the learner's own random numbers.
            torch.set_rng_state(self.torch_rng)
            self.learning = True
            try:
                while self.timesteps < total_timesteps:
                    figures = self.imitate() if self.imitating else self.play()
                    answers = [each(self, figures) for each in callbacks]
                    if any(answer is False for answer in answers):
                        break
            finally:
                self.learning = False
                self.torch_rng = torch.get_rng_state()
        return self

    def _step(self, loss: torch.Tensor) -> float:
        norm = self.optimizer.step(loss)
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient stopped being finite at sequence {self.timesteps:,}; lower --learning-rate"
            )
        return norm

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def valid(self, tokens: np.ndarray) -> np.ndarray:
        """Which tokens `(n, L)` belong to their sequences."""
        return valid_tokens(tokens, self.end)

    def metrics(self) -> dict[str, float]:
        """Figures of this moment for a row of metrics."""
        return {"train/learning_rate": self.optimizer.learning_rate}

    # Sampling and measuring

    def language_model(self) -> LanguageModel:
        """The generator as it is now, for decoders."""
        return self.generator.language_model(self.length, self.end)

    def sample(self, n: int, seed: int = 0, decoder: Decoder = ALL) -> np.ndarray:
        """Draw sequences `(n, L)` of tokens."""
        return generate(self.language_model(), n, np.random.default_rng(seed), decoder)

    def sample_text(self, n: int, seed: int = 0, decoder: Decoder = ALL) -> list[str]:
        """Draw n sequences as text."""
        return self.text(self.sample(n, seed, decoder))

    def beam(self, n: int, width: int | None = None) -> list[tuple[str, float]]:
        """The n most probable sequences that a beam finds, and their log-probabilities.

        Args:
            n: How many.
            width: Width of the beam; by default n.
        """
        tokens, scores = beam_search(self.language_model(), max(n, width or n))
        return list(zip(self.text(tokens[:n]), scores[:n].tolist(), strict=True))

    def text(self, tokens: np.ndarray) -> list[str]:
        """Tokens `(n, L)` as texts."""
        return as_text(tokens, self.vocabulary, self.end, self.separator)

    def nll(self, tokens: np.ndarray, temperature: float = 1.0) -> float:
        """Negative log-likelihood of sequences `(n, L)` under the generator, in nats per token.

        Args:
            tokens: The sequences.
            temperature: What its logits are divided by.
        """
        total, count = 0.0, 0
        with torch.no_grad(), evaluating(self.generator):
            for part in np.split(tokens, range(LARGE_BATCH, len(tokens), LARGE_BATCH)):
                truth, valid = self._tensor(part), self._tensor(self.valid(part)).flatten()
                logits = self.generator(truth)[0].logits / temperature
                total += float(F.cross_entropy(logits[valid], truth.flatten()[valid], reduction="sum"))
                count += int(valid.sum())
        return total / count

    def evaluate(self, episodes: int = 1_000, seed: int = 0) -> dict[str, float]:
        """What generated sequences are worth; the last weights are kept, whatever comes out.

        Args:
            episodes: How many are drawn.
            seed: Decides which.

        Returns:
            `nll_test`, of the test data under the generator; with an oracle `nll_oracle`, of samples under it, in nats
            per token; with a grammar `grammatical`, the share of samples that it accepts.
        """
        return {"nll_test": self.nll(self.dataset.test), **self.quality(self.sample(episodes, seed)), "score": 0.0}

    def quality(self, tokens: np.ndarray) -> dict[str, float]:
        """How real sequences `(n, L)` are to the oracle or the grammar that the data come from, if there is one."""
        data, figures = self.dataset, {}
        if data.oracle is not None:
            figures["nll_oracle"] = float(data.oracle.nll(tokens).mean())
        if data.grammar is not None:
            figures["grammatical"] = float(np.mean([data.grammar.accepts(text.split()) for text in self.text(tokens)]))
        return figures

    def test(self, samples: int = 2_000, seed: int = 1, decoder: Decoder = ALL) -> dict[str, float]:
        """All that can be said of generated sequences.

        Args:
            samples: How many are drawn.
            seed: Decides which.
            decoder: How.

        Returns:
            What `evaluate` returns, `nll_test` at the decoder's temperature; `bleu` against the test data, `self_bleu`,
            the shares that are `unique` and not in the training data (`novel`); and the same of the test data
            themselves as `real_*`.
        """
        data = self.dataset
        drawn, real, words = self.sample(samples, seed, decoder), data.test[:REFERENCES], len(self.vocabulary)
        figures = {}
        if decoder.temperature and decoder.top_k is None:  # Otherwise there are sequences that it never draws.
            figures["nll_test"] = self.nll(data.test, decoder.temperature)
        for side, tokens in {"": drawn, "real_": real}.items():
            figures |= {f"{side}{name}": value for name, value in self.quality(tokens).items()}
            figures[f"{side}self_bleu"] = bleu(tokens, None, words, self.end)
            figures |= {f"{side}{name}": value for name, value in shares(tokens, data.train).items()}
        half = len(real) // 2
        figures["bleu"] = bleu(drawn, real[:half], words, self.end)
        figures["real_bleu"] = bleu(real[half:], real[:half], words, self.end)
        return figures | {"n_real": len(real), "n_fake": len(drawn)}

    def conclude(self, run: Any, progress: Any) -> dict[str, Any] | None:
        """Measure what came out, write some of it into the run's folder, and compare with the controls."""
        from rltool.gan.sequence.controls import compare_with_controls

        (run.path / "samples.txt").write_text("\n".join(self.sample_text(100)) + "\n", encoding="utf-8")
        return compare_with_controls(run, self, progress)

    # Starting from others

    def init_backbone(self, source: Any) -> None:
        """Start the generator from the backbone of another sequence GAN, or of an agent with a memory.

        Raises:
            UserError: It has another shape, or there is none.
        """
        theirs = getattr(getattr(source, "policy", source), "backbone", None)
        if theirs is None:
            raise UserError("there is no backbone to start from")
        copy_weights([(self.generator.backbone, theirs)], "the backbone")

    def init_policy(self, source: Any) -> None:
        """Refuse a policy.

        Raises:
            UserError: Always.
        """
        raise UserError("a sequence GAN starts from no policy; start from a backbone with --init-backbone")

    def freeze_backbone(self, timesteps: int) -> None:
        """Refuse to freeze.

        Raises:
            UserError: Always.
        """
        raise UserError("a sequence GAN learns all of its weights; leave --freeze-backbone out")

    # State

    def save(self, path: str | Path) -> None:
        """Write networks, vocabulary and config to one safetensors file; nothing in it is executable."""
        description = {
            "format": 1,
            "method": self.method,
            "data": self.data,
            "config": self.config.model_dump(mode="json"),
            "vocabulary": [list(self.vocabulary), self.length, self.end, self.separator],
            "seed": self.seed,
        }
        save_state(Path(path), State(dict(self.model.state_dict()), description))

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
        vocabulary = tuple(values["vocabulary"])
        learner = cls(values["data"], config, seed=values["seed"], device=device, vocabulary=vocabulary)
        learner.model.load_state_dict(state.tensors)
        learner.model.eval()
        return learner

    KEPT: tuple[str, ...] = ("timesteps", "total_timesteps", "playing")

    def checkpoint(self) -> State:
        """Everything that training goes on from, as one object."""
        state = State(values={name: getattr(self, name) for name in self.KEPT})
        state.values["rng"] = self.rng.bit_generator.state
        state.add("model", self.model.state_dict())
        for name, optimizer in self._optimizers().items():
            state.add(name, optimizer.state())
            state.values[name] = [optimizer.steps, optimizer.learning_rate]
        state.tensors["pending"] = torch.from_numpy(self.pending)
        state.tensors["torch_rng"] = torch.get_rng_state() if self.learning else self.torch_rng
        state.tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
        return state

    def restore(self, state: State) -> bool:
        """Go on from a checkpoint; returns whether training goes on bit for bit, which it does."""
        for name in self.KEPT:
            setattr(self, name, state.values[name])
        self.rng.bit_generator.state = state.values["rng"]
        self.model.load_state_dict(state.take("model"))
        for name, optimizer in self._optimizers().items():
            steps, optimizer.learning_rate = state.values[name]
            optimizer.load_state(state.take(name), steps)
        self.torch_rng = state.tensors["torch_rng"]
        self.pending = state.tensors["pending"].numpy().copy()
        return True

    def _optimizers(self) -> dict[str, Adam]:
        return {"optimizer": self.optimizer, "discriminator_optimizer": self.discriminator_optimizer}
