"""What generated sequences are worth: BLEU, self-BLEU, and shares that are grammatical, different and new."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rltool.data.sequences import valid_tokens


@dataclass(frozen=True)
class Counts:
    """How often each n-gram stands in each sequence.

    Attributes:
        sequence: Row of each pair of a sequence and an n-gram, `(K,)`.
        gram: Number of its n-gram, `(K,)`.
        count: How often it stands there, `(K,)`.
    """

    sequence: np.ndarray
    gram: np.ndarray
    count: np.ndarray


def count_grams(tokens: np.ndarray, lengths: np.ndarray, size: int, words: int) -> Counts:
    """Count the n-grams of n = `size` tokens in sequences `(n, L)`, each up to its length.

    Raises:
        OverflowError: There are more possible n-grams than numbers.
    """
    if words**size * len(tokens) >= 2**63:
        raise OverflowError(f"there are too many {size}-grams of {words} tokens")
    places = tokens.shape[1] - size + 1
    if places < 1:
        return Counts(*(np.empty(0, np.int64) for _ in range(3)))
    gram = np.zeros((len(tokens), places), np.int64)
    for k in range(size):
        gram = gram * words + tokens[:, k : k + places]
    there = np.arange(places) < (lengths - size + 1)[:, None]
    row = np.broadcast_to(np.arange(len(tokens))[:, None], gram.shape)[there]
    pairs, count = np.unique(row * words**size + gram[there], return_counts=True)
    return Counts(pairs // words**size, pairs % words**size, count)


def bleu(
    candidates: np.ndarray, references: np.ndarray | None, words: int, end: int | None = None, size: int = 4
) -> float:
    """BLEU of a corpus (Papineni et al., ACL 2002): how far its n-grams stand in reference sequences, too.

    Every reference is one of every candidate. Without references each candidate is compared with all others: that is
    self-BLEU (Zhu et al., "Texygen", SIGIR 2018), high where a generator repeats itself.

    Args:
        candidates: Sequences `(n, L)`.
        references: Sequences `(m, L)`; None: the other candidates.
        words: Number of tokens.
        end: The token that ends and fills up sequences; it does not count.
        size: Longest n-grams; all sizes up to it have the same weight.

    Returns:
        From 0 to 1; 0 where no n-gram of some size is found.
    """
    own = _lengths(candidates, end)
    theirs = own if references is None else _lengths(references, end)
    precisions = []
    for k in range(1, size + 1):
        counts = count_grams(candidates, own, k, words)
        if references is None:
            allowed = _most_elsewhere(counts)
        else:
            allowed = _most(count_grams(references, theirs, k, words), counts.gram)
        total = counts.count.sum()
        precisions.append(np.minimum(counts.count, allowed).sum() / total if total else 0.0)
    if not all(precisions):
        return 0.0
    closest = _closest(own, theirs, leave_out=references is None).sum()
    penalty = math.exp(min(0.0, 1 - closest / max(own.sum(), 1)))
    return penalty * math.exp(sum(map(math.log, precisions)) / size)


def _lengths(tokens: np.ndarray, end: int | None) -> np.ndarray:
    valid = valid_tokens(tokens, end)
    return (valid if end is None else valid & (tokens != end)).sum(1)


def _most(references: Counts, grams: np.ndarray) -> np.ndarray:
    """How often each n-gram stands in the reference that has it most often."""
    known, place = np.unique(references.gram, return_inverse=True)
    most = np.zeros(len(known) + 1, np.int64)  # The last one is for what is in none.
    np.maximum.at(most, place, references.count)
    found = np.searchsorted(known, grams).clip(max=max(len(known) - 1, 0))
    return most[np.where(known[found] == grams, found, len(known))] if len(known) else np.zeros(len(grams), np.int64)


def _most_elsewhere(counts: Counts) -> np.ndarray:
    """How often each n-gram of each sequence stands in that other sequence which has it most often."""
    known, place = np.unique(counts.gram, return_inverse=True)
    most, second = np.zeros(len(known), np.int64), np.zeros(len(known), np.int64)
    np.maximum.at(most, place, counts.count)
    holders = np.bincount(place, counts.count == most[place], len(known))
    below = counts.count < most[place]
    np.maximum.at(second, place[below], counts.count[below])
    alone = (counts.count == most[place]) & (holders[place] == 1)
    return np.where(alone, second[place], most[place])


def _closest(own: np.ndarray, theirs: np.ndarray, leave_out: bool) -> np.ndarray:
    """The length `(n,)` of the reference that is closest in length; of two, the shorter."""
    lengths, counts = np.unique(theirs, return_counts=True)
    distance = np.abs(own[:, None] - lengths).astype(float)
    if leave_out:  # Nobody is its own reference, unless there is another one of that length.
        distance[(own[:, None] == lengths) & (counts == 1)] = np.inf
    return lengths[distance.argmin(1)]


def shares(samples: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """How many of the samples `(n, L)` are different from each other, and how many are not among the examples."""
    different = np.unique(samples, axis=0)
    examples = {row.tobytes() for row in np.ascontiguousarray(train)}
    new = sum(row.tobytes() not in examples for row in np.ascontiguousarray(samples))
    return {"unique": len(different) / len(samples), "novel": new / len(samples)}
