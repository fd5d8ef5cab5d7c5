"""Data sets of images and points."""

from typing import TYPE_CHECKING

from rltool.lazy import lazy_exports

if TYPE_CHECKING:
    from rltool.data.datasets import Dataset as Dataset
    from rltool.data.datasets import Part as Part
    from rltool.data.datasets import load_dataset as load_dataset
    from rltool.data.pairs import DomainPair as DomainPair
    from rltool.data.pairs import load_pair as load_pair
    from rltool.data.shifts import shift_examples as shift_examples

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "datasets": ["Dataset", "Part", "load_dataset"],
        "pairs": ["DomainPair", "load_pair"],
        "shifts": ["shift_examples"],
    },
)
