import json
import shutil
import statistics

import pytest
from PIL import Image


def test_train_and_eval(cli):
    cli("train", "classifier", "digits", "-n", 3_000, "--quiet", "--name", "d", "--augment", "shift")
    result = json.loads(cli("eval", "runs/d", "--json").out)
    assert result["accuracy"] > 0.5
    assert len(result["class_accuracy"]) == 10


def test_mistakes_are_told(cli):
    wrong = cli("train", "classifier", "digitz")
    assert wrong.code == 2
    assert "digits" in wrong.err
    assert cli("train", "classifier", "digits", "--augment", "blur").code == 2


FOLDS = ["train", "classifier", "digits", "--backbone", "mlp", "--hidden-sizes", "16", "-n", 2_000, "--folds", 2]


def test_cross_validation_sums_up_and_goes_on(cli, workplace):
    done = cli(*FOLDS, "--name", "cv")
    assert done.code == 0
    assert [f"fold {k}: accuracy" in done.out for k in range(2)] == [True] * 2
    runs = [json.loads((workplace / "runs" / "cv" / f"fold-{k}" / "summary.json").read_text()) for k in range(2)]
    report = json.loads((workplace / "runs" / "cv" / "summary.json").read_text())
    accuracies = [run["best_accuracy"] for run in runs]
    assert report["validation_accuracies"] == accuracies
    assert report["validation_accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert report["validation_std"] == pytest.approx(statistics.stdev(accuracies))
    assert "2 folds: validation accuracy" in done.out

    finished = workplace / "runs" / "cv" / "fold-0" / "model.safetensors"
    written = finished.stat().st_mtime_ns
    shutil.rmtree(workplace / "runs" / "cv" / "fold-1")
    again = cli(*FOLDS, "--name", "cv", "--json").json
    assert again["validation_accuracies"] == accuracies
    assert finished.stat().st_mtime_ns == written
    assert "other options" in cli(*FOLDS, "--name", "cv", "--learning-rate", 0.1).sentence(2)


def test_mistakes_with_folds(cli, workplace):
    assert "no data set 'digitz'" in cli(*(each if each != "digits" else "digitz" for each in FOLDS)).sentence(2)
    assert not (workplace / "runs").exists()
    assert "--eval-freq" in cli(*FOLDS, "--eval-freq", 0).sentence(2)
    assert "either --seeds or --folds" in cli(*FOLDS, "--seeds", "0-1").sentence(2)
    assert "fold must be less than folds" in cli(*FOLDS, "--fold", 2).sentence(2)


def test_what_is_confused_is_said_and_plotted(cli, workplace):
    cli(
        "train", "classifier", "digits", "--hidden-sizes", "8", "--backbone", "mlp", "-n", 500, "--quiet", "--name", "d"
    )
    said = cli("eval", "runs/d").out
    counts = cli("eval", "runs/d", "--json").json["confusion"]
    most = max(counts[i][j] for i in range(10) for j in range(10) if i != j)
    assert f"({most}x)" in said.splitlines()[-1]
    assert cli("plot", "runs/d").code == 0
    assert (workplace / "plot.png").exists()


def test_a_folder_of_images(cli, workplace):
    for name, gray in (("dark", 30), ("light", 220)):
        (workplace / "shades" / name).mkdir(parents=True)
        for k in range(20):
            Image.new("L", (8, 8), gray + k).save(workplace / "shades" / name / f"{k}.png")
    cli("train", "classifier", "shades", "--backbone", "mlp", "-n", 2_000, "--quiet", "--name", "s")
    result = cli("eval", "runs/s", "--json").json
    assert result["accuracy"] == 1
    assert result["class_accuracy"].keys() == {"dark", "light"}


def test_list_datasets(cli):
    names = [line.split("\t")[0] for line in cli("list", "datasets").out.splitlines()]
    assert names[:5] == ["digits", "mnist", "fashion-mnist", "usps", "cifar10"]
    assert {"ring8", "grid25", "moons", "swiss-roll"} <= set(names)
