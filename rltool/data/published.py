"""Data sets that are fetched on first use, from where their authors publish them.

A file is read only when its checksum is right, and none is ever unpickled.
"""

from __future__ import annotations

import gzip
import os
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rltool.data.examples import Dataset, Part
from rltool.errors import UserError

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Published:
    """A data set on the web.

    Attributes:
        summary: What it is.
        url: Where its files lie; ends in a slash.
        files: Their names and checksums, `md5:...` or `sha256:...`.
        classes: What the labels mean.
        read: Turns the files, in this order, into the training and the test part.
    """

    summary: str
    url: str
    files: Mapping[str, str]
    classes: tuple[str, ...]
    read: Callable[[list[Path]], tuple[Part, Part]]


def load_published(name: str) -> Dataset:
    """Read a data set of `PUBLISHED`; what is not in `data_folder()` yet is fetched.

    Raises:
        UserError: A file cannot be fetched, or is not the one that was published.
    """
    known = PUBLISHED[name]
    return Dataset(name, *known.read([fetch(name, file) for file in known.files]), known.classes)


def data_folder() -> Path:
    """Where fetched files are kept: the folder that the variable RLTOOL_DATA names, else one in the user's cache."""
    import pooch

    return Path(os.environ.get("RLTOOL_DATA") or pooch.os_cache("rltool"))


def fetch(name: str, file: str) -> Path:
    """One file of a published data set; fetched unless it is there already.

    The variable RLTOOL_DATA_URL names a mirror: a web folder that has a folder for each data set.

    Raises:
        UserError: It cannot be fetched or kept, or it is not the one that was published.
    """
    import pooch

    known, folder = PUBLISHED[name], data_folder() / name
    mirror = os.environ.get("RLTOOL_DATA_URL")
    if mirror and not mirror.startswith(("http://", "https://")):
        raise UserError(f"RLTOOL_DATA_URL is '{mirror}'; it takes an address that begins with http:// or https://")
    url = f"{mirror.rstrip('/')}/{name}/{file}" if mirror else known.url + file
    checksum = known.files[file]
    remedy = (
        f"put the published file into {folder} yourself, or name with RLTOOL_DATA the folder that has {name}/{file}"
    )
    path = folder / file
    try:
        if not (path.is_file() and pooch.file_hash(path, checksum.partition(":")[0]) == checksum.partition(":")[2]):
            print(f"fetching {url} into {folder}", file=sys.stderr)
        pooch.get_logger().setLevel("WARNING")  # It would say the same, and more.
        return Path(pooch.retrieve(url, checksum, fname=file, path=folder))
    except OSError as error:  # That of requests is one, too.
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"HTTP status {status}" if status else error.strerror or "no connection"
        raise UserError(f"cannot fetch {url} into {folder} ({reason}); {remedy}") from None
    except ValueError:
        raise UserError(f"what came from {url} has another checksum than {checksum}; try again, or {remedy}") from None


def _read_mnist(paths: list[Path]) -> tuple[Part, Part]:
    """Four files in IDX format: training images and labels, test images and labels."""
    train_x, train_y, test_x, test_y = (_read_idx(path) for path in paths)
    return _images(train_x[:, None], train_y), _images(test_x[:, None], test_y)


def _read_idx(path: Path) -> np.ndarray:
    """Bytes of any shape: two zeros, the type (8 for bytes), the number of axes, their lengths, the values."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _read_usps(paths: list[Path]) -> tuple[Part, Part]:
    """Two files in LIBSVM format: labels from 1 on, 16 x 16 pixels in [-1, 1]."""
    from sklearn.datasets import load_svmlight_file

    def part(path: Path) -> Part:
        x, y = load_svmlight_file(str(path), n_features=256, dtype=np.float32)
        return Part(((x.toarray() + 1) / 2).reshape(-1, 1, 16, 16), y.astype(np.int64) - 1)

    train, test = (part(path) for path in paths)
    return train, test


def _read_cifar10(paths: list[Path]) -> tuple[Part, Part]:
    """The binary version, read inside of its archive: records of a label and 3 x 32 x 32 bytes."""

    def part(archive: tarfile.TarFile, *names: str) -> Part:
        members = [archive.extractfile(f"cifar-10-batches-bin/{name}.bin") for name in names]
        content = b"".join(member.read() for member in members if member is not None)
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        return _images(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0])

    with tarfile.open(paths[0]) as archive:
        return part(archive, *(f"data_batch_{k}" for k in range(1, 6))), part(archive, "test_batch")


def _images(x: np.ndarray, y: np.ndarray) -> Part:
    """Bytes `(n, channels, height, width)` and labels `(n,)` as a part."""
    return Part(np.divide(x, 255, dtype=np.float32), y.astype(np.int64))


PUBLISHED = {
    "mnist": Published(
        "70,000 handwritten digits of 28 x 28 pixels (LeCun et al., 1998); fetched on first use, 11 MB",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        DIGITS,
        _read_mnist,
    ),
    "fashion-mnist": Published(
        "70,000 pieces of clothing, 28 x 28 gray pixels (Xiao et al., 2017); fetched on first use, 30 MB",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        _read_mnist,
    ),
    "usps": Published(
        "9,298 digits from envelopes, 16 x 16 pixels (Hull, 1994); fetched on first use, 9 MB",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",
        {
            "usps.bz2": "md5:ec16c51db3855ca6c91edd34d0e9b197",
            "usps.t.bz2": "md5:8ea070ee2aca1ac39742fdd1ef5ed118",
        },
        DIGITS,
        _read_usps,
    ),
    "cifar10": Published(
        "60,000 color photographs of 32 x 32 pixels (Krizhevsky, 2009); fetched on first use, 170 MB",
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        _read_cifar10,
    ),
}
