"""BLEU by hand and against a plain implementation."""

import math
from collections import Counter

import numpy as np
import pytest

from rltool.gan.sequence.metrics import bleu, shares


def plain_bleu(candidates, references, size):
    """As the paper writes it down: lists of candidates, and for each of them its references."""
    precisions = []
    for k in range(1, size + 1):
        matched = total = 0
        for candidate, theirs in zip(candidates, references, strict=True):

            def grams(sequence, k=k):
                return Counter(tuple(sequence[i : i + k]) for i in range(len(sequence) - k + 1))

            most = Counter()
            for reference in theirs:
                most |= grams(reference)
            matched += (grams(candidate) & most).total()
            total += grams(candidate).total()
        precisions.append(matched / total)
    closest = [min((abs(len(r) - len(c)), len(r)) for r in t)[1] for c, t in zip(candidates, references, strict=True)]
    penalty = min(1.0, math.exp(1 - sum(closest) / sum(map(len, candidates))))
    return penalty * math.prod(precisions) ** (1 / size)


def padded(sequences, length):
    return np.array([[*row, *[0] * (length - len(row))] for row in sequences])


def test_bleu_by_hand():
    # the the cat / the cat sat: clipped unigrams 2 of 3, bigrams 1 of 2.
    candidate, reference = padded([[1, 1, 2]], 4), padded([[1, 2, 3]], 4)
    assert bleu(candidate, reference, 4, 0, size=2) == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    assert bleu(candidate[:, :2], reference, 4, 0, size=1) == pytest.approx(math.exp(1 - 3 / 2) / 2)  # Too short.
    assert bleu(reference, reference, 4, 0, size=3) == 1
    assert bleu(padded([[3, 3, 3]], 4), padded([[1, 2, 1]], 4), 4, 0) == 0


def test_self_bleu_by_hand():
    same, different = padded([[1, 2, 3], [1, 2, 3]], 3), padded([[1, 1, 1], [2, 2, 2]], 3)
    assert bleu(same, None, 4, size=3) == 1
    assert bleu(different, None, 4, size=1) == 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_bleu_is_what_the_paper_says(size):
    rng = np.random.default_rng(0)

    def draw(n):
        return [rng.integers(1, 5, rng.integers(4, 9)).tolist() for _ in range(n)]

    candidates, references = draw(30), draw(12)
    expected = plain_bleu(candidates, [references] * 30, size)
    assert bleu(padded(candidates, 9), padded(references, 9), 5, 0, size) == pytest.approx(expected)
    others = [[c for j, c in enumerate(candidates) if j != k] for k in range(30)]
    expected = plain_bleu(candidates, others, size)
    assert bleu(padded(candidates, 9), None, 5, 0, size) == pytest.approx(expected)


def test_shares():
    train = np.array([[1, 2], [3, 4]])
    assert shares(np.array([[1, 2], [1, 2], [5, 6], [7, 8]]), train) == {"unique": 0.75, "novel": 0.5}
