import numpy as np

from rltool.training.run import Run

QUICK = ("--preset", "none", "--eval-freq", 0, "--batch-size", 8, "-n", 3, "--quiet")


def test_samples_of_what_is_asked_for(cli, workplace, nearest_mean):
    cli("train", "cgan", "digits", *QUICK)
    assert cli("sample", "latest", "--condition", 7, "-n", 4, "--out", "seven.npz").code == 0
    assert np.load("seven.npz")["x"].shape == (4, 1, 8, 8)
    assert cli("sample", "latest", "--interpolate", "--condition", 7, "--json").json["out"] == "samples.png"
    assert "no condition '11'" in cli("sample", "latest", "--condition", 11).sentence(2)
    assert Run("latest").summary["finished"]
    assert (workplace / "runs" / "latest" / "classes.png").stat().st_size > 200
    measured = cli("eval", "latest", "--samples", 60, "--json").json
    assert 0 <= measured["condition_accuracy"] < 0.5  # It has hardly been trained.


def test_translation(cli, workplace, nearest_mean):
    trained = cli("train", "cyclegan", "digits:digits~inverted", *QUICK)
    assert trained.code == 0, trained.err
    assert "importing" not in trained.err  # The colon is not that of a module.
    assert (workplace / "runs" / "latest" / "translations.png").stat().st_size > 200
    assert {"class_kept", "class_kept_back", "cycle_l1"} <= set(cli("eval", "latest", "--json").json)
    assert cli("sample", "latest", "-n", 4, "--out", "made.npz").code == 0
    assert np.load("made.npz")["x"].shape == (4, 1, 8, 8)
    assert "no noise to interpolate between" in cli("sample", "latest", "--interpolate").sentence(2)
    assert "is no pair of domains" in cli("train", "pix2pix", "digits", *QUICK).sentence(2)
    assert "without conditions" in cli("sample", "latest", "--condition", 7).sentence(2)


def test_shifts_are_listed(cli):
    assert "~inverted" in cli("list", "shifts").out
