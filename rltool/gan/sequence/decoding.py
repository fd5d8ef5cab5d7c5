"""Decoders: from the probabilities of the next token to sequences. Whole batches go step by step, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rltool.networks.heads import gumbel
from rltool.trees import Tree, map_tree

NEVER = np.float32(-np.inf)


@dataclass(frozen=True)
class LanguageModel:
    """What generates sequences token by token.

    Attributes:
        step: Called with the tokens before, `(n,)`, and a state; returns logits `(n, words)` and the state after them.
        start: The state of n sequences before their first token.
        words: Number of tokens; as the token before the first one, this number itself is given.
        length: Tokens of a sequence.
        end: The token that ends a sequence and fills it up, or None.
    """

    step: Callable[[np.ndarray, Tree], tuple[np.ndarray, Tree]]
    start: Callable[[int], Tree]
    words: int
    length: int
    end: int | None = None


@dataclass(frozen=True)
class Decoder:
    """How the next token is chosen.

    Attributes:
        temperature: Logits are divided by it; 0 takes the most probable token (greedy decoding).
        top_k: Only so many of the most probable tokens are drawn from; None: all.
    """

    temperature: float = 1.0
    top_k: int | None = None

    def choose(self, logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Tokens `(n,)` from logits `(n, words)`."""
        if not self.temperature:
            return logits.argmax(1)
        if self.top_k is not None and self.top_k < logits.shape[1]:
            least = np.partition(logits, -self.top_k, 1)[:, -self.top_k, None]
            logits = np.where(logits >= least, logits, NEVER)
        return gumbel(logits if self.temperature == 1 else logits / np.float32(self.temperature), rng).argmax(1)


ALL = Decoder()


def generate(
    model: LanguageModel,
    n: int,
    rng: np.random.Generator,
    decoder: Decoder = ALL,
) -> np.ndarray:
    """Draw sequences `(n, length)`."""
    tokens = np.empty((n, model.length), np.int64)
    for t, (token, _) in enumerate(walk(model, n, rng, decoder)):
        tokens[:, t] = token
    return tokens


def walk(
    model: LanguageModel, n: int, rng: np.random.Generator, decoder: Decoder = ALL
) -> Iterator[tuple[np.ndarray, Tree]]:
    """Draw n sequences; yields, for each place, the tokens `(n,)` and the state that they were drawn from."""
    token, state = np.full(n, model.words), model.start(n)
    for _ in range(model.length):
        before = token
        logits, state = model.step(before, state)
        token = filled(decoder.choose(logits, rng), before, model.end)
        yield token, state


def filled(token: np.ndarray, before: np.ndarray, end: int | None) -> np.ndarray:
    """Tokens `(n,)`, with another end after each end."""
    return token if end is None else np.where(before == end, end, token)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities `(n, words)`."""
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def beam_search(model: LanguageModel, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Look for the most probable sequences, keeping `width` beginnings at each step.

    Returns:
        Up to `width` sequences `(k, length)`, the most probable first, and their log-probabilities `(k,)`.
    """
    tokens, scores = np.empty((1, 0), np.int64), np.zeros(1)
    token, state = np.full(1, model.words), model.start(1)
    for _ in range(model.length):
        logits, state = model.step(token, state)
        log_probs = log_softmax(logits).astype(np.float64)
        if model.end is not None:  # What has ended goes on in one way alone.
            over = token == model.end
            log_probs[over] = NEVER
            log_probs[over, model.end] = 0
        total = (scores[:, None] + log_probs).ravel()
        best = np.argsort(-total, kind="stable")[: min(width, int(np.isfinite(total).sum()))]
        rows, token = np.divmod(best, model.words)
        tokens, scores = np.concatenate([tokens[rows], token[:, None]], 1), total[best]
        state = map_tree(lambda leaf, rows=rows: leaf[rows], state)
    return tokens, scores
