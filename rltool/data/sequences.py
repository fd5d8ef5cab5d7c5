"""Sequences of tokens: those of an oracle whose likelihood is known, of a small grammar, and of a text file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from rltool.errors import UserError, unknown

TEST_SHARE = 0.1  # Of the lines of a text.
MOST_WORDS = 5_000  # Rarer ones are all the same word.
RARE = "<rare>"
MOST_BYTES = 100_000_000
AT_ONCE = 500  # Sequences, whose probabilities stay in the cache.

State = dict[str, np.ndarray]

SEQUENCES = {
    "oracle": "10,000 sequences of 20 tokens, each one of 20 (oracle-N: of N), from an LSTM with random weights",
    "grammar": "5,000 English sentences of a small grammar, whose verbs agree with subjects that may lie far back",
}


@dataclass(frozen=True)
class Sequences:
    """Sequences to learn from and to measure on.

    Attributes:
        name: Name of the data.
        train: Tokens `(n, L)`, int64.
        test: Tokens `(m, L)`, which nothing is learned from.
        vocabulary: What each token stands for.
        end: The token that ends a sequence and fills it up; None where all have the same length.
        separator: What stands between two tokens in a text.
        oracle: What the sequences come from, if their likelihood is known.
        grammar: What tells right from wrong ones, if there is such.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]
    end: int | None = None
    separator: str = " "
    oracle: Oracle | None = None
    grammar: Grammar | None = None

    @property
    def length(self) -> int:
        """Tokens of the longest sequence, its end included."""
        return self.train.shape[1]


def valid_tokens(tokens: np.ndarray, end: int | None) -> np.ndarray:
    """Which tokens `(n, L)` belong to their sequence: those up to its first end, which belongs to it."""
    if end is None:
        return np.ones(tokens.shape, bool)
    ended = np.cumsum(tokens == end, 1)
    return ended - (tokens == end) == 0


def as_text(tokens: np.ndarray, vocabulary: Sequence[str], end: int | None, separator: str) -> list[str]:
    """Tokens `(n, L)` as n texts."""
    lengths = (valid_tokens(tokens, end) & (tokens != (-1 if end is None else end))).sum(1)
    return [
        separator.join(vocabulary[k] for k in row[:length])
        for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)
    ]


def encode(sentences: Sequence[Sequence[str]], vocabulary: Sequence[str], length: int) -> np.ndarray:
    """Sentences as tokens `(n, length)`, filled up with token 0; words outside of the vocabulary are `<rare>`."""
    index = {word: k for k, word in enumerate(vocabulary)}
    tokens = np.zeros((len(sentences), length), np.int64)
    for row, sentence in zip(tokens, sentences, strict=True):
        row[: len(sentence)] = [index[word] if word in index else index[RARE] for word in sentence]
    return tokens


class Oracle:
    """An LSTM with weights from N(0, 1), so that its sequences have a known likelihood.

    It is what SeqGAN was measured by (Yu et al., "SeqGAN: Sequence generative adversarial nets with policy gradient",
    AAAI 2017): the negative log-likelihood of generated sequences under it says how real they are.

    Args:
        words: Number of tokens.
        length: Tokens of each sequence.
        size: Width of the embedding and of the LSTM.
        seed: Decides the weights.
    """

    def __init__(self, words: int, length: int = 20, size: int = 32, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, np.float32)

        self.words, self.length, self.size = words, length, size
        self.embedding = normal(words + 1, size)  # The last one is where a sequence begins.
        self.lstm = [normal(size, 4 * size), normal(size, 4 * size), normal(4 * size), np.zeros(4 * size, np.float32)]
        self.weight, self.bias = normal(size, words), normal(words)

    def step(self, before: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Logits `(n, words)` of what follows the tokens `(n,)`, below 0, and the state after them."""
        from rltool.networks.memory import lstm_cell

        state = lstm_cell(self.lstm, self.embedding[before], state)
        logits = state["h"] @ self.weight
        logits += self.bias
        logits -= logits.max(1, keepdims=True)
        return logits, state

    def start(self, n: int) -> tuple[np.ndarray, State]:
        """What stands before the first token of n sequences, and the state then."""
        return np.full(n, self.words), {name: np.zeros((n, self.size), np.float32) for name in ("h", "c")}

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw sequences `(n, length)`."""
        return np.concatenate([self._sample(min(AT_ONCE, n - k), rng) for k in range(0, n, AT_ONCE)])

    def _sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        token, state = self.start(n)
        tokens = np.empty((n, self.length), np.int64)
        for t in range(self.length):
            logits, state = self.step(token, state)
            cumulated = np.exp(logits, out=logits).cumsum(1)
            place = rng.random((n, 1), np.float32) * cumulated[:, -1:]
            tokens[:, t] = token = (cumulated <= place).sum(1).clip(max=self.words - 1)
        return tokens

    def nll(self, tokens: np.ndarray) -> np.ndarray:
        """Negative log-likelihood `(n,)` of sequences `(n, length)`, in nats per token."""
        return np.concatenate([self._nll(tokens[k : k + AT_ONCE]) for k in range(0, len(tokens), AT_ONCE)])

    def _nll(self, tokens: np.ndarray) -> np.ndarray:
        total = np.zeros(len(tokens))
        before, state = self.start(len(tokens))
        for token in tokens.T:
            logits, state = self.step(before, state)
            total -= np.take_along_axis(logits, token[:, None], 1)[:, 0]
            total += np.log(np.exp(logits, out=logits).sum(1))
            before = token
        return total / tokens.shape[1]


# A 1 is singular, a 2 is plural. Nothing leads back to itself: the language is finite.
ENGLISH: Mapping[str, Sequence[str]] = {
    "SENTENCE": ("SUBJECT1 ACT1", "SUBJECT2 ACT2"),
    "SUBJECT1": ("NOUN1", "NOUN1", "NOUN1 that TAKE1 NOUN", "NOUN1 that CLAUSE"),
    "SUBJECT2": ("NOUN2", "NOUN2", "NOUN2 that TAKE2 NOUN", "NOUN2 that CLAUSE"),
    "CLAUSE": ("NOUN1 TAKE1", "NOUN2 TAKE2"),
    "ACT1": ("REST1", "TAKE1 NOUN"),
    "ACT2": ("REST2", "TAKE2 NOUN"),
    "NOUN": ("NOUN1", "NOUN2"),
    "NOUN1": ("THE1 THING1", "THE1 KIND THING1"),
    "NOUN2": ("THE2 THING2", "THE2 KIND THING2"),
    "THE1": ("the", "a", "every"),
    "THE2": ("the", "some", "two"),
    "KIND": ("old", "small", "quiet"),
    "THING1": ("cat", "dog", "child", "bird"),
    "THING2": ("cats", "dogs", "children", "birds"),
    "REST1": ("sleeps", "sings"),
    "REST2": ("sleep", "sing"),
    "TAKE1": ("sees", "likes", "follows"),
    "TAKE2": ("see", "like", "follow"),
}


@dataclass(frozen=True)
class Grammar:
    """A context-free grammar without left recursion.

    Attributes:
        rules: What each symbol may become, all with the same probability: words and symbols, separated by spaces. What
            is no symbol is a word.
        start: The symbol that a sentence comes from.

    Example:
        >>> grammar = Grammar({"S": ("a S b", "a b")}, "S")
        >>> grammar.accepts("a a b b".split()), grammar.accepts("a b b".split())
        (True, False)
    """

    rules: Mapping[str, Sequence[str]] = field(default_factory=lambda: ENGLISH)
    start: str = "SENTENCE"

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All words, in alphabetical order."""
        parts = {part for choices in self.rules.values() for choice in choices for part in choice.split()}
        return tuple(sorted(parts - self.rules.keys()))

    def sample(self, rng: np.random.Generator) -> list[str]:
        """Draw a sentence."""
        sentence, rest = [], [self.start]
        while rest:
            symbol = rest.pop()
            if symbol in self.rules:
                choices = self.rules[symbol]
                rest += reversed(choices[int(rng.integers(len(choices)))].split())
            else:
                sentence.append(symbol)
        return sentence

    def accepts(self, sentence: Sequence[str]) -> bool:
        """Whether a sentence can be derived."""
        known: dict[tuple[str, int], set[int]] = {}

        def ends(symbol: str, begin: int) -> set[int]:
            """Where what is derived from a symbol can end when it begins there."""
            if symbol not in self.rules:
                return {begin + 1} if begin < len(sentence) and sentence[begin] == symbol else set()
            if (symbol, begin) not in known:
                found: set[int] = set()
                for choice in self.rules[symbol]:
                    places = {begin}
                    for part in choice.split():
                        places = {end for place in places for end in ends(part, place)}
                    found |= places
                known[symbol, begin] = found
            return known[symbol, begin]

        return len(sentence) in ends(self.start, 0)


def load_sequences(
    name: str, tokens: Literal["auto", "words", "characters"] = "auto", max_length: int | None = None
) -> Sequences:
    """Load sequences of tokens.

    Args:
        name: One of `SEQUENCES`, or a text file `.txt` in UTF-8, each of whose lines is a sequence.
        tokens: (Text) What a token is; auto: words where there are more than 2,000 of them, else characters.
        max_length: (Text) Tokens at which a longer line is divided; by default 20 words or 60 characters.

    Raises:
        UserError: There is none of that name, or the file will not do.

    Example:
        >>> load_sequences("grammar").train.shape
        (5000, 13)
    """
    if name.endswith(".txt"):
        return read_text(Path(name), tokens, max_length)
    known = re.fullmatch(r"oracle(?:-(\d+))?", name)
    if known is None and name not in SEQUENCES:
        raise unknown("sequence data", name, [*SEQUENCES, "FILE.txt"])
    if tokens != "auto" or max_length is not None:
        raise UserError(f"{name} has its own tokens; leave out --tokens and --max-length, which are for text files")
    return _grammar(Grammar()) if known is None else _oracle(name, int(known[1] or 20))


def _oracle(name: str, words: int) -> Sequences:
    if not 2 <= words <= MOST_WORDS:
        raise UserError(f"{name} has {words} tokens; take oracle-N with N from 2 to {MOST_WORDS:,}")
    oracle, rng = Oracle(words), np.random.default_rng(0)
    train, test = oracle.sample(10_000, rng), oracle.sample(2_000, rng)
    return Sequences(name, train, test, tuple(map(str, range(words))), oracle=oracle)


def _grammar(grammar: Grammar) -> Sequences:
    rng, vocabulary = np.random.default_rng(0), ("", *grammar.words)
    sentences = [grammar.sample(rng) for _ in range(6_000)]
    tokens = encode(sentences, vocabulary, 1 + max(map(len, sentences)))
    return Sequences("grammar", tokens[:5_000], tokens[5_000:], vocabulary, end=0, grammar=grammar)


def read_text(path: Path, tokens: Literal["auto", "words", "characters"], max_length: int | None) -> Sequences:
    """Lines of a text file; those that are empty are passed over. A tenth of them is held out as the test part.

    Raises:
        UserError: The file is missing, is no text, or has too few lines.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES:,} bytes; cut it down")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8; convert it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if len(lines) < 20:
        raise UserError(f"{path} has {len(lines)} lines; each line is a sequence, and 20 are needed at least")
    words = tokens == "words" or (tokens == "auto" and sum(len(line.split()) for line in lines) > 2_000)
    longest = max_length or (20 if words else 60)
    sentences = [line.split() if words else list(line) for line in lines]
    # The vocabulary and the two parts come from whole lines: pieces of one line never lie on both sides.
    held_out = np.zeros(len(lines), bool)
    held_out[np.random.default_rng(0).permutation(len(lines))[: max(1, int(TEST_SHARE * len(lines)))]] = True
    counts = Counter(token for k, sentence in enumerate(sentences) if not held_out[k] for token in sentence)
    frequent = sorted(token for token, _ in counts.most_common(MOST_WORDS))
    vocabulary = ("", *frequent, RARE)
    pieces = [[s[k : k + longest] for k in range(0, len(s), longest)] for s in sentences]
    length = 1 + max(len(piece) for each in pieces for piece in each)
    parts = [
        encode([piece for k, each in enumerate(pieces) if held_out[k] == test for piece in each], vocabulary, length)
        for test in (False, True)
    ]
    return Sequences(path.stem, parts[0], parts[1], vocabulary, end=0, separator=" " if words else "")
