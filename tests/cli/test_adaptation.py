import json
import subprocess
import sys

import numpy as np
import pytest


def rltool(*args, cwd, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "rltool", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done


SMALL = ("--hidden-sizes", "16", "-n", "1280", "--preset", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("adaptation"), np.random.default_rng(0)
    for name in ("a", "b"):
        y = np.arange(120) % 2
        np.savez(folder / f"{name}.npz", x=(rng.normal(size=(120, 2)) + 3 * y[:, None]).astype(np.float32), y=y)
    return folder


def test_files_are_trained_on_and_evaluated(folder):
    files = ("--source", "a.npz", "--target", "b.npz", "--no-controls")
    done = rltool("train", "dann", *files, *SMALL, "--name", "files", cwd=folder)
    assert "accuracy in the target" in done.stdout
    assert "b.npz has labels: they taught and chose nothing" in done.stdout
    result = json.loads(rltool("eval", "files", "--json", cwd=folder).stdout)
    assert {"source_accuracy", "target_accuracy", "confusion"} <= result.keys()
    summary = json.loads((folder / "runs" / "files" / "summary.json").read_text())
    assert result["target_accuracy"] == summary["target_accuracy"]
    assert "finished" in rltool("resume", "files", cwd=folder).stdout


def test_no_controls_and_reproduction(folder):
    options = ("--no-controls", "--name", "alone", *SMALL)
    rltool("train", "coral", "moons:moons@40deg", *options, cwd=folder)
    assert not (folder / "runs" / "alone" / "controls").exists()
    assert json.loads(rltool("reproduce", "alone", "--json", cwd=folder).stdout)["identical"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dann"], "either as SOURCE:TARGET or by both"),
        (["dann", "--source", "a.npz"], "either as SOURCE:TARGET or by both"),
        (["dann", "moons:moons", "--source", "a.npz", "--target", "b.npz"], "either as SOURCE:TARGET or by both"),
        (["dann", "moons"], "no pair of domains"),
        (["dann", "moons:moons~blurry"], "no shift 'blurry'"),
        (["dann", "moons:digits"], "a pair needs two of one kind"),
        (["dann", "digits~0-5:digits~4-9"], "which dann would take for its own; universal answers 'unknown'"),
        (["dann", "digits~0-2:digits~3-9"], "adapting needs classes in common"),
        (["adabn", "moons:moons@40deg", "--no-batch-norm"], "this backbone has none"),
        (["dann", "digits:digits~inverted", "--folds", "3"], "leave --folds out"),
        (["dann", "moons:moons@40deg", "--weight", "0"], "adapts nothing; take source-only"),
    ],
)
def test_mistakes_are_one_sentence(folder, arguments, sentence):
    done = rltool("train", *arguments, cwd=folder, code=2)
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
