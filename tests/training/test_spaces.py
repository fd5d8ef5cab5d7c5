"""A space must come back from JSON as it was: same kind, numbers, types, and order."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import Space, spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rltool.errors import UserError
from rltool.training.spaces import space_from_json, space_to_json

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    shape = draw(SHAPES)
    dtype = np.dtype(draw(st.sampled_from(["float32", "float64", "float16", "uint8", "int64", "uint64"])))
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        numbers = st.integers(limits.min, limits.max)
    else:
        numbers = st.floats(width=dtype.itemsize * 8, allow_nan=False)
    size = 1 if draw(st.booleans()) else int(np.prod(shape))
    pairs = [sorted((draw(numbers), draw(numbers))) for _ in range(size)]
    low, high = (np.array([pair[side] for pair in pairs], dtype) for side in (0, 1))
    low[low == np.inf] = 0  # Gymnasium has no Box from infinity on, or up to minus infinity.
    high[high == -np.inf] = 0
    low, high = (np.broadcast_to(b[0] if size == 1 else b.reshape(shape), shape) for b in (low, high))
    return spaces.Box(low, high, shape, dtype.type)


@st.composite
def multi_discretes(draw: st.DrawFn) -> spaces.MultiDiscrete:
    shape = draw(SHAPES.filter(len))
    size = int(np.prod(shape))
    nvec, start = (draw(st.lists(n, min_size=size, max_size=size)) for n in (st.integers(1, 9), st.integers(-9, 9)))
    dtype = draw(st.sampled_from([np.int64, np.int32, np.int8]))
    return spaces.MultiDiscrete(np.reshape(nvec, shape), dtype, start=np.reshape(start, shape))


DISCRETES = st.builds(spaces.Discrete, st.integers(1, 100), start=st.integers(-9, 9))
BITS = st.one_of(st.integers(1, 9), st.lists(st.integers(1, 3), min_size=1, max_size=3)).map(spaces.MultiBinary)
GRAPHS = st.builds(spaces.Graph, st.one_of(boxes(), DISCRETES), st.one_of(st.none(), boxes(), DISCRETES))
LEAVES = st.one_of(boxes(), DISCRETES, multi_discretes(), BITS, GRAPHS)


def nested(parts: st.SearchStrategy[Space]) -> st.SearchStrategy[Space]:
    keys = st.one_of(st.text(max_size=4), st.integers(0, 3))
    pairs = st.lists(st.tuples(keys, parts), max_size=3, unique_by=lambda pair: pair[0])
    return st.one_of(pairs.map(spaces.Dict), st.lists(parts, max_size=3).map(spaces.Tuple))


def assert_same(one: Space, other: Space) -> None:
    """Stricter than `==`, which forgets the order of keys and rounds bounds."""
    assert one == other
    assert type(one) is type(other)
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    if isinstance(one, spaces.Box):
        np.testing.assert_array_equal(one.low, other.low)
        np.testing.assert_array_equal(one.high, other.high)
    if isinstance(one, spaces.Dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    if isinstance(one, spaces.Tuple):
        for part, others in zip(one, other, strict=True):
            assert_same(part, others)


@settings(max_examples=300, deadline=None)
@given(st.recursive(LEAVES, nested, max_leaves=6))
def test_round_trip(space: Space) -> None:
    assert_same(space_from_json(json.loads(json.dumps(space_to_json(space)))), space)


def test_bounds_that_are_the_same_everywhere_take_no_room() -> None:
    space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    assert len(json.dumps(space_to_json(space))) < 120
    assert_same(space_from_json(space_to_json(space)), space)


def test_a_discrete_space_of_an_earlier_file() -> None:
    assert space_from_json({"type": "Discrete", "n": 3, "start": 1}) == spaces.Discrete(3, start=1)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Dict({"a": spaces.Tuple([spaces.Text(3)])}),
        spaces.Dict([((0, 1), spaces.Discrete(2))]),
    ],
)
def test_spaces_that_cannot_be_saved(space: Space) -> None:
    with pytest.raises(UserError, match=r"cannot be saved; use Box|must be text or whole numbers to be saved") as error:
        space_to_json(space)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"type": "Hyperbox"},
        {"type": "Box", "low": [1, 2], "high": 3, "shape": [3], "dtype": "float32"},
        {"type": "Box", "low": 0, "high": 1, "shape": [3], "dtype": "float33"},
        {"type": "Discrete", "n": 0, "start": 0},
        {"type": "MultiDiscrete", "nvec": [0], "start": [0], "dtype": "int64"},
        {"type": "Dict", "spaces": [["a", {"type": "Hyperbox"}]]},
        {"type": "Tuple", "spaces": [3]},
    ],
)
def test_descriptions_that_are_none(value: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="the file is from a newer version or damaged"):
        space_from_json(value)
