"""What holds for every test: one thread, so that small networks are fast and results do not depend on the number of
cores; Ctrl-C that reaches the processes tests start; and a folder of its own for Minari's datasets."""

import os
import signal

import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# What a shell starts in the background ignores Ctrl-C, and so would all that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The pages of the documentation take longest: they come first, each for whichever process is free.

    The tests of any other file stay together, for the sake of what they share.
    """
    items.sort(key=lambda item: item.path.name != "test_docs.py")
    for item in items:
        name = item.name if item.path.name == "test_docs.py" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(autouse=True, scope="session")
def datasets_of_all_tests(tmp_path_factory):
    """Nobody's own datasets, and what is kept beside them, are seen or touched."""
    os.environ["MINARI_DATASETS_PATH"] = str(tmp_path_factory.mktemp("datasets"))
    os.environ["RLTOOL_DATA"] = str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """An empty folder for Minari's datasets, for one test."""
    folder = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


@pytest.fixture
def nearest_mean(monkeypatch):
    """A quick classifier in the place of the trained one: which class's mean image is nearest."""

    import numpy as np

    from rltool.gan.extractor import Extractor

    def find(data, choice="auto"):
        means = np.stack([data.train.x[data.train.y == k].mean(0) for k in range(len(data.classes))])

        def see(x):
            closeness = np.exp(-((x[:, None] - means) ** 2).sum((2, 3, 4)).astype(np.float64))
            return x.reshape(len(x), -1).astype(np.float64), closeness / closeness.sum(1, keepdims=True)

        return Extractor("nearest mean", see)

    monkeypatch.setattr("rltool.gan.extractor.find_extractor", find)
    monkeypatch.setattr("rltool.gan.report.find_extractor", find)
