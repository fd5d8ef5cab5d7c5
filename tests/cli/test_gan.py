import json
import shutil

import numpy as np
import pytest
from PIL import Image

import rltool

SMALL = ["--preset", "none", "--hidden-sizes", "16", "--batch-size", 32, "--noise-size", 2, "--quiet"]
KEYS = {"modes", "high_quality", "kl", "fid", "n_real", "n_fake"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = rltool.train(
        "wgan-gp",
        "ring8",
        preset="none",
        hidden_sizes=(16,),
        batch_size=32,
        noise_size=2,
        total_timesteps=40,
        eval_freq=20,
        run_dir=str(tmp_path_factory.mktemp("runs")),
        name="ring",
    )
    return run.path


@pytest.fixture
def ring(finished, workplace):
    """A finished run that a test may change."""
    shutil.copytree(finished, workplace / "runs" / "ring")
    return "runs/ring"


def test_train_eval_and_look(cli, ring, workplace):
    folder = workplace / ring
    for name in ("samples.png", "interpolation.png", "training.gif", "learning_curve.png"):
        assert (folder / name).stat().st_size > 1_000, name
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    assert summary["discriminator_won"] is False
    assert "best_fid" in summary
    with Image.open(folder / "training.gif") as film:
        assert film.n_frames >= 40  # One a step.

    result = cli("eval", ring, "--json", "--samples", 600).json
    assert result.keys() >= KEYS
    assert (result["n_real"], result["n_fake"], result["num_modes"]) == (100_000, 600, 8)
    assert "95% interval" in cli("eval", ring, "--samples", 600).out

    assert cli("sample", ring, "-n", 20, "--out", "some/points.npz").code == 0
    points = np.load(workplace / "some" / "points.npz")["x"]
    assert points.shape == (20, 2)
    said = cli("sample", ring, "-n", 20, "--seed", 1, "--out", "points.npz", "--json").json
    assert said["seed"] == 1
    assert not np.array_equal(points, np.load(workplace / "points.npz")["x"])
    assert cli("sample", ring, "-n", 3, "--interpolate", "--out", "strips.npz").code == 0
    assert np.load(workplace / "strips.npz")["x"].shape == (3, 10, 2)
    assert cli("sample", ring, "--film", "--out", "film.gif").code == 0
    assert "ring8\tfinished" in cli("list", "runs").out


def test_a_grid_of_images(cli, workplace):
    x = np.random.default_rng(0).random((40, 8, 8)).astype(np.float32)
    np.savez(workplace / "noise.npz", x=x)
    cli("train", "sngan", "noise.npz", "-n", 3, "--eval-freq", 2, "--batch-size", 4, "--quiet", "--name", "noise")
    cli("sample", "runs/noise", "-n", 6, "--out", "grid.png")
    with Image.open(workplace / "grid.png") as grid:
        assert grid.size[0] / grid.size[1] == (3 * 9 - 1) / (2 * 9 - 1)
    assert cli("eval", "runs/noise", "--json", "--samples", 100).json["n_real"] == 32


def test_interrupted_and_resumed_it_is_the_same(cli, workplace, ring):
    stopped = cli("train", "wgan-gp", "ring8", "-n", 20, "--eval-freq", 20, *SMALL, "--name", "half")
    assert stopped.code == 0
    assert cli("resume", "runs/half", "-n", 40, "--quiet").code == 0
    for name in ("model.safetensors", "samples.png"):
        assert (workplace / "runs/half" / name).read_bytes() == (workplace / ring / name).read_bytes(), name
    assert cli("reproduce", ring, "--quiet").code == 0


def test_mistakes(cli, workplace, ring):
    assert "layer norm" in cli("train", "wgan-gp", "ring8", "--batch-norm", *SMALL).sentence(2)
    assert "for images" in cli("train", "gan", "ring8", "--augment", "color", *SMALL).sentence(2)
    assert "--init-backbone" in cli("train", "gan", "ring8", "--init-policy", ring, *SMALL).sentence(2)
    for verb in ("attack", "record", "robustness"):
        options = ("--out", "x") if verb == "record" else ("--attack", "fgsm") if verb == "attack" else ()
        assert "plays in no environment" in cli(verb, ring, *options).sentence(2)
    assert "without conditions" in cli("sample", ring, "--condition", 7, "--out", "a.png").sentence(2)
    assert ".png or .npz" in cli("sample", ring, "--out", "a.jpg").sentence(2)
    np.savez(workplace / "one.npz", x=np.zeros((1, 8, 8), np.float32))
    assert "too few to learn" in cli("train", "gan", "one.npz").sentence(2)
    np.savez(workplace / "nan.npz", x=np.full((40, 8, 8), np.nan, np.float32))
    assert "not finite" in cli("train", "gan", "nan.npz").sentence(2)
    np.savez(workplace / "range.npz", x=np.full((40, 8, 8), 3, np.float32))
    assert "pixels from 3 to 3" in cli("train", "gan", "range.npz").sentence(2)
    (workplace / "photos").mkdir()
    for size in range(4, 24):
        Image.new("L", (size, size)).save(workplace / "photos" / f"{size}.png")
    assert "give all images one size, or" in cli("train", "gan", "photos").sentence(2)
    assert not list((workplace / "runs").glob("gan-*"))
    assert cli("train", "gan", "photos@8px", "-n", 1, "--batch-size", 4, "--eval-freq", 0, "--quiet").code == 0


def test_a_run_that_makes_no_samples(cli, trained):
    assert "makes no samples" in cli("sample", trained, "--out", "a.png").sentence(2)
