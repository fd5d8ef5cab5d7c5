import json

from rltool.cli.main import main


def test_train_resume_and_eval(tmp_path, capsys):
    folder = str(tmp_path / "d")
    options = ["--quiet", "--name", "d", "--run-dir", str(tmp_path), "--augment", "shift"]
    assert main(["train", "classifier", "digits", "-n", "3000", *options]) in (0, None)
    capsys.readouterr()
    assert main(["eval", folder, "--json"]) in (0, None)
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"] > 0.5
    assert len(result["class_accuracy"]) == 10


def test_mistakes_are_told(tmp_path, capsys):
    assert main(["train", "classifier", "digitz", "--run-dir", str(tmp_path)]) == 2
    assert "digits" in capsys.readouterr().err
    assert main(["train", "classifier", "digits", "--augment", "blur", "--run-dir", str(tmp_path)]) == 2
