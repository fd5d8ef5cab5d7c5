"""Sequences as data: the oracle's likelihood, the grammar, text files."""

import itertools

import numpy as np
import pytest

from rltool.data.sequences import Grammar, Oracle, as_text, load_sequences, valid_tokens
from rltool.errors import UserError


def test_probabilities_of_all_sequences_of_an_oracle_sum_to_one():
    oracle = Oracle(words=3, length=4, size=4)
    every = np.array(list(itertools.product(range(3), repeat=4)))
    assert np.exp(-4 * oracle.nll(every)).sum() == pytest.approx(1, abs=1e-5)


def test_sequences_come_as_often_as_the_oracle_says():
    oracle, n = Oracle(words=3, length=3, size=4), 20_000
    drawn = oracle.sample(n, np.random.default_rng(0)) @ [9, 3, 1]
    every = np.array(list(itertools.product(range(3), repeat=3)))
    expected = np.exp(-3 * oracle.nll(every))
    observed = np.bincount(drawn, minlength=27) / n
    assert np.abs(observed - expected).max() < 5 * np.sqrt(0.25 / n)


def test_mean_nll_of_an_oracles_own_samples_is_its_entropy():
    oracle = Oracle(words=4, length=4, size=4)
    every = np.array(list(itertools.product(range(4), repeat=4)))
    nll = 4 * oracle.nll(every)
    entropy = (np.exp(-nll) * nll).sum() / 4
    own = oracle.nll(oracle.sample(20_000, np.random.default_rng(1)))
    assert own.mean() == pytest.approx(entropy, abs=5 * own.std() / np.sqrt(len(own)))


def test_the_oracle_is_always_the_same_and_prefers_its_own():
    data = load_sequences("oracle-30")
    assert data.train.shape == (10_000, 20)
    assert data.train.max() < 30
    assert np.array_equal(data.test, load_sequences("oracle-30").test)
    noise = np.random.default_rng(0).integers(0, 30, (500, 20))
    assert data.oracle.nll(data.test).mean() < data.oracle.nll(noise).mean() - 1
    assert len({tuple(row) for row in data.train} & {tuple(row) for row in data.test}) < 5


def test_all_sentences_are_grammatical_and_the_verb_agrees_across_a_clause():
    data = load_sequences("grammar")
    for text in as_text(data.train[:300], data.vocabulary, data.end, data.separator):
        assert data.grammar.accepts(text.split()), text
    assert data.grammar.accepts(["the", "cat", "that", "two", "old", "dogs", "see", "sleeps"])
    assert not data.grammar.accepts(["the", "cat", "that", "two", "old", "dogs", "see", "sleep"])
    assert not data.grammar.accepts(["the", "cat"])
    assert not data.grammar.accepts([])


def test_a_grammar_with_recursion():
    grammar = Grammar({"S": ("a S b", "a b")}, "S")
    assert grammar.words == ("a", "b")
    assert [grammar.accepts(list(text)) for text in ("ab", "aaabbb", "aab", "ba")] == [True, True, False, False]
    assert grammar.accepts(grammar.sample(np.random.default_rng(3)))


def test_what_belongs_to_a_sequence():
    tokens = np.array([[3, 0, 0], [1, 2, 3], [0, 0, 0]])
    assert valid_tokens(tokens, 0).tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert valid_tokens(tokens, None).all()
    assert as_text(tokens, ["", "a", "b", "c"], 0, " ") == ["c", "a b c", ""]


def test_text_comes_back_as_it_was(tmp_path):
    file = tmp_path / "lines.txt"
    lines = [f"line {k % 7} of this text" for k in range(60)]
    file.write_text("\n\n".join(lines))
    for tokens, separator in (("words", " "), ("characters", "")):
        data = load_sequences(str(file), tokens)
        assert data.separator == separator
        back = as_text(np.concatenate([data.train, data.test]), data.vocabulary, data.end, data.separator)
        assert sorted(back) == sorted(lines)
        assert len(data.test) == 6
    short = load_sequences(str(file), "words", max_length=3)
    texts = as_text(short.train, short.vocabulary, short.end, " ")
    assert {len(text.split()) for text in texts} == {3, 2}


def test_words_of_the_test_part_alone_are_rare(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(f"name{k}" for k in range(40)))
    data = load_sequences(str(file), "words")
    assert set(as_text(data.test, data.vocabulary, data.end, " ")) == {"<rare>"}


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("orakle", {}, "did you mean 'oracle'"),
        ("oracle-1", {}, "N from 2 to"),
        ("oracle", {"tokens": "words"}, "leave out --tokens"),
        ("nowhere.txt", {}, "there is no file"),
        ("few.txt", {}, "20 are needed"),
        ("bytes.txt", {}, "no text in UTF-8"),
    ],
)
def test_what_will_not_do(tmp_path, monkeypatch, name, options, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe" * 100)
    with pytest.raises(UserError, match=sentence):
        load_sequences(name, **options)
