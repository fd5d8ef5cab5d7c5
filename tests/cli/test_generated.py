"""Frames of a game, and what generators are used for, on the command line."""

SMALL = ["--preset", "none", "--backbone", "mlp", "--hidden-sizes", "16", "-n", 5, "--eval-freq", 0, "--quiet"]


def test_a_generator_of_frames(cli, copy_of_trained):
    data = f"frames:{copy_of_trained},size=8,n=60"
    assert cli("train", "gan", data, *SMALL, "--name", "frames").code == 0
    report = cli("eval", "runs/frames", "--samples", 60, "--json").json
    assert (report["n_real"], report["n_fake"]) == (48, 60)
    assert report["extractor"] == "48 principal components of pixels"
    assert "frames:RUN" in cli("list", "datasets").out
    assert "has no labels" in cli("train", "classifier", data).sentence(2)
    assert "there is no run nowhere" in cli("train", "gan", "frames:nowhere").sentence(2)
    assert "no run elsewhere" in cli("eval", "runs/frames", "--extractor", "elsewhere").sentence(2)


def test_a_classifier_and_a_defense_take_a_generator(cli):
    for method in ("gan", "cgan"):
        assert cli("train", method, "digits", *SMALL, "--name", method).code == 0
    classifier = ["train", "classifier", "digits", *SMALL[:6], "-n", 500, "--quiet"]
    assert cli(*classifier, "--augment-with", "cgan", "--augment-share", 0.2, "--name", "helped").code == 0
    assert "augment-share 1.0 will not do" in cli(*classifier, "--augment-with", "cgan", "--augment-share", 1).sentence(
        2
    )
    assert "does nothing without --augment-with" in cli(*classifier, "--augment-share", 0.3).sentence(2)
    assert "no run nowhere" in cli(*classifier, "--augment-with", "nowhere").sentence(2)
    options = ["--with", "projection", "-o", "descent=3", "-o", "starts=1", "--examples", 5, "--steps", 2, "--json"]
    assert cli("defend", "helped", *options, "-o", "run=gan").json["defense"] == "projection"
    assert "samples of noise alone" in cli("defend", "helped", *options, "-o", "run=cgan").sentence(2)
