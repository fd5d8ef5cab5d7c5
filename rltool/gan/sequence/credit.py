"""How good a token turned out to be: what a discriminator says of sequences, as rewards and advantages of tokens.

Arrays are `(L, n)`, as those of a rollout in `rltool.agents`: rows run forward in time, columns are sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rltool.agents.advantages import discounted_returns, gae
from rltool.gan.sequence.config import SeqGANConfig
from rltool.gan.sequence.decoding import ALL, LanguageModel, filled
from rltool.trees import map_tree

Judge = Callable[[np.ndarray], np.ndarray]  # From sequences `(n, L)` to verdicts, `(n, L)` if causal, else `(n, 1)`.


def complete(model: LanguageModel, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a completion of each beginning of each sequence (Monte Carlo rollouts), all of them at once.

    Args:
        model: Draws what comes after a beginning.
        tokens: Sequences `(n, L)`.
        rng: Source of randomness.

    Returns:
        `(L - 1, n, L)`; the first k + 1 tokens of the k-th are those of the sequences.
    """
    n, length = tokens.shape
    completions = np.repeat(tokens[None], length - 1, 0)
    token, state = np.full(n, model.words), model.start(n)
    _, state = model.step(token, state)
    token = token[:0]
    pool = map_tree(lambda leaf: leaf[:0], state)
    for t in range(1, length):
        # The sequences themselves, as they stand after t tokens, join the completions of their shorter beginnings.
        token = np.concatenate([token, tokens[:, t - 1]])
        pool = map_tree(lambda leaf, new: np.concatenate([leaf, new]), pool, state)
        logits, pool = model.step(token, pool)
        state = map_tree(lambda leaf: leaf[-n:], pool)
        token = filled(ALL.choose(logits, rng), token, model.end)
        completions[:t, :, t] = token.reshape(t, n)
    return completions


def rollout_rewards(
    judge: Judge, model: LanguageModel, tokens: np.ndarray, rollouts: int, rng: np.random.Generator
) -> np.ndarray:
    """What a token is worth: the mean verdict over completions of the sequence up to it, and after the last its own.

    Args:
        judge: Gives verdicts `(m, 1)` on whole sequences.
        model: Draws completions.
        tokens: Sequences `(n, L)`.
        rollouts: How many completions of each beginning.
        rng: Source of randomness.

    Returns:
        `(L, n)`.
    """
    n, length = tokens.shape
    worth = np.zeros((length, n), np.float32)
    for _ in range(rollouts):
        completions = complete(model, tokens, rng)
        worth[:-1] += judge(completions.reshape(-1, length)).reshape(length - 1, n) / rollouts
    worth[-1] = judge(tokens)[:, 0]
    return worth


def prefix_rewards(verdicts: np.ndarray) -> np.ndarray:
    """By how much each token changes the verdict so far, `(L, n)`, from verdicts `(n, L)`.

    Their sum is the verdict on the whole. Where verdicts are logits of an ideal discriminator, a token's reward is
    log p(token | before) - log q(token | before), p being the data's probability and q the generator's.
    """
    return np.diff(verdicts, axis=1, prepend=0).T


def last_rewards(verdict: np.ndarray, done: np.ndarray) -> np.ndarray:
    """The verdict `(n,)` on the whole as the reward of the last token, where `done` `(L, n)`."""
    return np.where(done, verdict, np.float32(0)).astype(np.float32)


def last_tokens(valid: np.ndarray) -> np.ndarray:
    """Where sequences end, `(L, n)`, from which tokens belong to them, `(L, n)`."""
    return valid & ~np.concatenate([valid[1:], np.zeros_like(valid[:1])])


def assign_credit(
    rewards: np.ndarray, values: np.ndarray, valid: np.ndarray, config: SeqGANConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages of tokens, and the returns that a value is to foresee; both `(L, n)`.

    Args:
        rewards: `(L, n)`; from rollouts, returns.
        values: What a baseline foresees before each token, `(L, n)`.
        valid: Which tokens belong to their sequences, `(L, n)`; what stands elsewhere is meaningless.
        config: Options.
    """
    done = last_tokens(valid)
    gamma = 0.0 if config.credit == "rollouts" else config.gamma
    if config.baseline == "value":
        following = np.concatenate([values[1:], np.zeros_like(values[:1])])
        advantages = gae(rewards, values, following, done, done, gamma, config.gae_lambda)
        return advantages, advantages + values
    returns = discounted_returns(rewards, done, gamma)
    if config.baseline == "none":
        return returns, returns
    mean = (returns * valid).sum(1, keepdims=True) / valid.sum(1, keepdims=True).clip(min=1)
    return returns - mean, returns
