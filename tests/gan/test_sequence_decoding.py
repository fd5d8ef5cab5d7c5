"""Decoders, rollouts and credit of the sequence GAN, against brute force and by hand."""

import itertools

import numpy as np
import pytest
import torch

from rltool.gan.sequence.config import SeqGANConfig
from rltool.gan.sequence.credit import (
    assign_credit,
    complete,
    last_rewards,
    last_tokens,
    prefix_rewards,
    rollout_rewards,
)
from rltool.gan.sequence.decoding import Decoder, beam_search, generate
from rltool.gan.sequence.networks import SequenceDiscriminator, SequenceGenerator
from rltool.networks.backbone import evaluating

BACKBONES = ["lstm", "gru", "transformer", "rnn"]


def make(words=3, length=4, end=None, seed=0, **options):
    """A generator with weights that have opinions, and what it is for decoders."""
    torch.manual_seed(seed)
    config = SeqGANConfig(**{"model_size": 8, "embedding_size": 5, **options})
    generator = SequenceGenerator(config, words)
    torch.nn.init.normal_(generator.action_head.linear.weight, std=1.5)
    generator.eval()
    return generator, generator.language_model(length, end)


def log_probs(generator, tokens, end=None):
    """Log-probabilities of sequences, from the fused pass."""
    tokens = torch.as_tensor(tokens)
    with torch.no_grad():
        each = generator(tokens)[0].log_prob(tokens.flatten()).view(tokens.shape)
    if end is not None:
        ended = (tokens == end).cumsum(1) - (tokens == end).long()
        each = each * (ended == 0)
    return each.sum(1).numpy()


def every(words, length, end=None):
    """All sequences; after an end there are only ends."""
    found = np.array(list(itertools.product(range(words), repeat=length)))
    if end is None:
        return found
    return np.array([row for row in found if end not in row or (row[row.tolist().index(end) :] == end).all()])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_step_by_step_is_the_fused_pass(backbone):
    generator, model = make(backbone=backbone, length=6)
    tokens = generate(model, 7, np.random.default_rng(0))
    with torch.no_grad():
        logits = generator(torch.from_numpy(tokens))[0].logits.view(7, 6, 3).numpy()
    before, state = np.full(7, 3), model.start(7)
    for t in range(6):
        step, state = model.step(before, state)
        np.testing.assert_allclose(step, logits[:, t], atol=1e-5)
        before = tokens[:, t]


@pytest.mark.parametrize("end", [None, 0])
def test_probabilities_sum_to_one_and_samples_follow_them(end):
    generator, model = make(end=end)
    sequences = every(3, 4, end)
    expected = np.exp(log_probs(generator, sequences, end))
    assert expected.sum() == pytest.approx(1, abs=1e-5)
    n, powers = 20_000, 3 ** np.arange(4)
    drawn = np.bincount(generate(model, n, np.random.default_rng(0)) @ powers, minlength=81)
    assert drawn.sum() == drawn[sequences @ powers].sum()
    assert np.abs(drawn[sequences @ powers] / n - expected).max() < 5 * np.sqrt(0.25 / n)


@pytest.mark.parametrize("end", [None, 0])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_wide_beam_is_brute_force(backbone, end):
    generator, model = make(end=end, backbone=backbone)
    sequences = every(3, 4, end)
    expected = log_probs(generator, sequences, end)
    order = np.argsort(-expected)
    found, scores = beam_search(model, 100)
    assert len(found) == len(sequences)
    np.testing.assert_allclose(scores, expected[order], atol=1e-4)
    assert np.array_equal(found[0], sequences[order[0]])


def test_a_beam_of_one_is_greedy_and_a_wider_one_no_worse():
    for seed in range(5):
        generator, model = make(words=5, length=6, seed=seed)
        greedy = generate(model, 1, np.random.default_rng(0), Decoder(temperature=0))
        narrow, wide = beam_search(model, 1), beam_search(model, 20)
        assert np.array_equal(narrow[0], greedy)
        assert wide[1][0] >= narrow[1][0] - 1e-6
        np.testing.assert_allclose(wide[1], log_probs(generator, wide[0]), atol=1e-4)
        assert (np.diff(wide[1]) <= 0).all()


def test_temperature_and_top_k():
    logits = np.log(np.array([[0.5, 0.3, 0.2]], np.float32)).repeat(20_000, 0)
    rng = np.random.default_rng(0)

    def frequencies(**options):
        return np.bincount(Decoder(**options).choose(logits, rng), minlength=3) / len(logits)

    np.testing.assert_allclose(frequencies(), [0.5, 0.3, 0.2], atol=0.02)
    np.testing.assert_allclose(frequencies(top_k=2), [0.625, 0.375, 0], atol=0.02)
    squares = np.array([0.25, 0.09, 0.04])
    np.testing.assert_allclose(frequencies(temperature=0.5), squares / squares.sum(), atol=0.02)
    assert frequencies(temperature=0)[0] == 1
    assert frequencies(top_k=1)[0] == 1


@pytest.mark.parametrize("end", [None, 0])
def test_completions_begin_as_the_sequences_do_and_follow_the_generator(end):
    generator, model = make(end=end)
    rng = np.random.default_rng(0)
    tokens = np.tile(generate(model, 40, rng)[3], (4_000, 1))
    completions = complete(model, tokens, rng)
    assert completions.shape == (3, 4_000, 4)
    for k in range(3):
        assert np.array_equal(completions[k, :, : k + 1], tokens[:, : k + 1])
    sequences = every(3, 4, end)
    probabilities = np.exp(log_probs(generator, sequences, end))
    for k in range(3):
        same = (sequences[:, : k + 1] == tokens[0, : k + 1]).all(1)
        expected = probabilities * same / probabilities[same].sum()
        drawn = np.array([(completions[k] == sequence).all(1).mean() for sequence in sequences])
        assert np.abs(drawn - expected).max() < 5 * np.sqrt(0.25 / 4_000)


def test_rewards_of_rollouts_are_expected_verdicts():
    generator, model = make(length=3)
    rng = np.random.default_rng(0)
    sequences = every(3, 3)
    verdict = {tuple(sequence): float(x) for sequence, x in zip(sequences, rng.normal(size=27), strict=True)}

    def judge(tokens):
        return np.array([[verdict[tuple(row)]] for row in tokens], np.float32)

    tokens = sequences[[5, 20]]
    rewards = rollout_rewards(judge, model, tokens, 600, rng)
    probabilities = np.exp(log_probs(generator, sequences))
    for n, row in enumerate(tokens):
        for t in range(3):
            same = (sequences[:, : t + 1] == row[: t + 1]).all(1)
            weights = probabilities * same / probabilities[same].sum()
            expected = sum(w * verdict[tuple(s)] for w, s in zip(weights, sequences, strict=True))
            assert rewards[t, n] == pytest.approx(expected, abs=0.2)


VALID = np.array([[1, 1], [1, 1], [1, 0]], bool)  # `(L, n)`: the second sequence has two tokens.


def test_credit_by_hand():
    assert last_tokens(VALID).tolist() == [[False, False], [False, True], [True, False]]
    np.testing.assert_allclose(prefix_rewards(np.array([[1.0, 3.0, 2.0]])), [[1], [2], [-1]])
    rewards = last_rewards(np.array([5.0, 7.0]), last_tokens(VALID))
    assert rewards.tolist() == [[0, 0], [0, 7], [5, 0]]
    zeros = np.zeros((3, 2), np.float32)
    plain = SeqGANConfig(baseline="none", credit="sequence", gamma=0.5)
    np.testing.assert_allclose(assign_credit(rewards, zeros, VALID, plain)[0][VALID], [1.25, 3.5, 2.5, 7, 5])
    batch = SeqGANConfig(baseline="batch", credit="sequence")
    np.testing.assert_allclose(assign_credit(rewards, zeros, VALID, batch)[0][VALID], [-1, 1, -1, 1, 0])
    values = np.array([[1, 2], [3, 4], [0, 0]], np.float32)
    value = SeqGANConfig(baseline="value", credit="sequence", gae_lambda=0.0)
    advantages, returns = assign_credit(rewards, values, VALID, value)
    np.testing.assert_allclose(advantages[VALID], [3 - 1, 4 - 2, 0 - 3, 7 - 4, 5 - 0])
    np.testing.assert_allclose(returns[VALID], [3, 4, 0, 7, 5])
    rollouts = SeqGANConfig(baseline="none", credit="rollouts")
    np.testing.assert_allclose(assign_credit(rewards + 1, zeros, VALID, rollouts)[0][VALID], (rewards + 1)[VALID])


def test_a_constant_reward_teaches_nothing_beside_a_baseline():
    rewards = last_rewards(np.ones(2), last_tokens(VALID))
    batch = SeqGANConfig(baseline="batch", credit="sequence")
    assert not assign_credit(rewards, np.zeros((3, 2), np.float32), VALID, batch)[0][VALID].any()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_verdicts_of_a_causal_discriminator_do_not_look_ahead(backbone):
    torch.manual_seed(0)
    discriminator = SequenceDiscriminator(SeqGANConfig(discriminator_backbone=backbone), 6, 5)
    torch.nn.init.normal_(discriminator.head.weight)
    tokens = torch.randint(6, (3, 5))
    other = tokens.clone()
    other[:, 3:] = (tokens[:, 3:] + 1) % 6
    with torch.no_grad(), evaluating(discriminator):
        one, two = discriminator(tokens), discriminator(other)
    assert one.shape == (3, 5)
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert (one[:, 3:] - two[:, 3:]).abs().min() > 1e-3
