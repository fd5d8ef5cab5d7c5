import bz2
import gzip
import hashlib
import io
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rltool.data import load_dataset
from rltool.data.datasets import DATASETS
from rltool.data.points import POINTS
from rltool.data.published import PUBLISHED
from rltool.errors import UserError

RNG = np.random.default_rng(0)
Y = np.arange(20) % 10


def idx(array):
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def gray(n, side):
    return RNG.integers(0, 256, (n, side, side), dtype=np.uint8)


def libsvm(x, y):
    rows = [
        f"{label + 1} " + " ".join(f"{k + 1}:{value:.4f}" for k, value in enumerate(row)) for row, label in zip(x, y)
    ]
    return bz2.compress("\n".join(rows).encode())


def cifar(x, y, batches):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        records = np.concatenate([y[:, None].astype(np.uint8), x.reshape(len(x), -1)], 1)
        for name, part in zip(
            [f"data_batch_{k + 1}" for k in range(batches)] + ["test_batch"], np.split(records, batches + 1)
        ):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = part.nbytes
            tar.addfile(member, io.BytesIO(part.tobytes()))
    return archive.getvalue()


@pytest.fixture
def publish(mirror, monkeypatch):
    """`publish("mnist", [bytes, ...])` puts files on the server, and their checksums into the table."""

    def put(name, contents):
        (mirror / name).mkdir()
        files = {}
        for (file, checksum), content in zip(PUBLISHED[name].files.items(), contents, strict=True):
            (mirror / name / file).write_bytes(content)
            algorithm = checksum.partition(":")[0]
            files[file] = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], files=files))
        return mirror / name

    return put


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files(publish, name):
    train, test = gray(20, 28), gray(10, 28)
    publish(name, [idx(train), idx(Y.astype(np.uint8)), idx(test), idx(Y[:10].astype(np.uint8))])
    data = load_dataset(name)
    assert data.train.x.shape == (20, 1, 28, 28)
    assert data.train.x.dtype == np.float32
    assert np.allclose(data.train.x[:, 0] * 255, train)
    assert np.allclose(data.test.x[:, 0] * 255, test)
    assert data.train.y.tolist() == Y.tolist()
    assert data.train.y.dtype == np.int64
    assert len(data.classes) == 10


def test_usps(publish):
    x = RNG.uniform(-1, 1, (20, 256)).round(4)
    x[0, 0] = -1
    publish("usps", [libsvm(x, Y), libsvm(x[:10], Y[:10])])
    data = load_dataset("usps")
    assert data.train.x.shape == (20, 1, 16, 16)
    assert data.train.x[0, 0, 0, 0] == 0
    assert np.allclose(data.train.x.reshape(20, 256) * 2 - 1, x, atol=1e-4)
    assert data.test.y.tolist() == Y[:10].tolist()


def test_cifar10(publish):
    x = RNG.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    y = np.arange(24) % 10
    publish("cifar10", [cifar(x, y, batches=5)])
    data = load_dataset("cifar10")
    assert (data.train.x.shape, data.test.x.shape) == ((20, 3, 32, 32), (4, 3, 32, 32))
    assert np.allclose(data.train.x * 255, x[:20])
    assert data.test.y.tolist() == y[20:].tolist()
    assert data.classes[3] == "cat"


def test_what_is_there_is_not_fetched_again(publish, capsys, monkeypatch):
    x = RNG.uniform(-1, 1, (20, 256))
    publish("usps", [libsvm(x, Y), libsvm(x, Y)])
    load_dataset("usps")
    assert capsys.readouterr().err.count("fetching") == 2
    monkeypatch.setenv("RLTOOL_DATA_URL", "http://127.0.0.1:9/")
    load_dataset("usps")
    assert not capsys.readouterr().err


def test_another_file_than_the_published_one(publish, tmp_path):
    folder = publish("usps", [b"one", b"two"])
    (folder / "usps.bz2").write_bytes(b"three")
    with pytest.raises(UserError, match="another checksum than md5:") as refused:
        load_dataset("usps")
    assert "\n" not in str(refused.value)
    assert not list(Path(tmp_path / "cache" / "usps").glob("*"))  # Nothing wrong is kept.


def test_a_damaged_copy_is_fetched_again(publish, tmp_path):
    x = RNG.uniform(-1, 1, (20, 256))
    publish("usps", [libsvm(x, Y), libsvm(x, Y)])
    load_dataset("usps")
    (tmp_path / "cache" / "usps" / "usps.bz2").write_bytes(b"")
    assert len(load_dataset("usps").train) == 20


def test_no_network(mirror, monkeypatch, tmp_path):
    monkeypatch.setenv("RLTOOL_DATA_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="no connection") as refused:
        load_dataset("mnist")
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert f"put the published file into {tmp_path / 'cache' / 'mnist'}" in sentence
    assert "train-images-idx3-ubyte.gz" in sentence
    assert "RLTOOL_DATA" in sentence


def test_mirrors_that_will_not_do(mirror, monkeypatch):
    with pytest.raises(UserError, match="HTTP status 404"):
        load_dataset("mnist")
    monkeypatch.setenv("RLTOOL_DATA_URL", "ftp://example.org")
    with pytest.raises(UserError, match="begins with http"):
        load_dataset("mnist")


def test_a_folder_that_cannot_be_written(publish, monkeypatch, tmp_path):
    publish("usps", [b"one", b"two"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLTOOL_DATA", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot fetch"):
        load_dataset("usps")


def test_the_table():
    assert DATASETS.keys() == {"digits", *PUBLISHED, *POINTS, "mnist-m", "stacked-digits"}
    for each in PUBLISHED.values():
        assert each.url.endswith("/")
        for checksum in each.files.values():
            algorithm, _, digest = checksum.partition(":")
            assert len(digest) == {"md5": 32, "sha256": 64}[algorithm]
