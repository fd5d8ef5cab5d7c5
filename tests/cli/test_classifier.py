import json


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
