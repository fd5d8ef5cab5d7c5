import pytest
import torch

from rltool.errors import UserError
from rltool.supervised import ClassifierConfig, ClassifierLearner
from rltool.supervised.augmentation import AUGMENTATIONS, cutout, flip, mixup, shift


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_images_keep_their_shape_and_range(augmentation):
    x = torch.rand(16, 3, 9, 12)
    before = x.clone()
    changed = augmentation(x)
    assert changed.shape == x.shape
    assert (changed.min() >= 0, changed.max() <= 1) == (True, True)
    assert torch.equal(x, before)
    assert not torch.equal(changed, x)


def test_shift_moves_whole_images():
    x = torch.zeros(200, 1, 8, 8)
    x[:, :, 4, 4] = 1
    places = shift(x).flatten(1).argmax(1)
    assert set(places.tolist()) == {8 * row + column for row in (3, 4, 5) for column in (3, 4, 5)}


def test_flip_mirrors_half():
    x = torch.zeros(400, 1, 2, 2)
    x[..., 0] = 1
    mirrored = flip(x)[:, 0, 0, 1].mean()
    assert 0.4 < mirrored < 0.6


def test_cutout_covers_a_square_of_half_the_side_by_the_mean():
    x = torch.rand(500, 2, 8, 8)
    changed = cutout(x)
    covered = (changed != x)[:, 0]
    mean = x.mean((0, 2, 3))
    assert torch.allclose(changed[:, 1][covered], mean[1])
    sizes = covered.flatten(1).sum(1)
    assert sizes.max() == 16  # A whole square lies inside, ...
    assert sizes.min() == 4  # ... or a corner of it.
    rows, columns = covered.any(2).sum(1), covered.any(1).sum(1)
    assert torch.equal(rows * columns, sizes)
    assert covered.float().mean(0).min() > 0  # Every pixel is covered at times.


def test_mixup_blends_inputs_and_targets_alike():
    targets = torch.eye(4)
    x, y = mixup(targets.clone(), targets, 0.7)
    assert torch.equal(x, y)
    assert torch.allclose(y.sum(1), torch.ones(4))
    assert (y.diagonal() >= 0.7 - 1e-6).all()
    assert torch.equal(mixup(targets, targets, 1.0)[0], targets)


def test_the_loss_under_mixup_is_that_of_both_labels():
    learner = ClassifierLearner("digits", ClassifierConfig(backbone="mlp", mixup=1.0))
    x, y = (part[:8] for part in learner.examples[0])
    share = float(learner.rng.beta(1.0, 1.0))
    share = max(share, 1 - share)
    learner.rng = type(learner.rng)(type(learner.rng.bit_generator)(0))
    torch.manual_seed(1)
    with torch.no_grad():
        loss, logits = learner.loss(x, y)
    torch.manual_seed(1)
    others = torch.randperm(8)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, y[others])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_augmentation_is_for_images(tmp_path):
    import numpy as np

    np.savez(tmp_path / "points.npz", x=np.random.default_rng(0).normal(size=(40, 2)), y=np.arange(40) % 2)
    with pytest.raises(UserError, match="holds points"):
        ClassifierLearner(str(tmp_path / "points.npz"), ClassifierConfig(augment=("cutout",))).prepare()
