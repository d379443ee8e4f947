"""Payloads that hypothesis generates arrive equal to what was sent, within a process and across processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from loop import Loop
from payloads import DTYPES, LAYOUTS, PAYLOADS, WAYS, Expect, Reading, expected, filled, same, subclasses
from pipert_shm import START_EVENT_NAME, Pipe
from routines import Items, chain

scalars = st.one_of(npst.scalar_dtypes(), npst.array_dtypes(max_size=3, allow_subarrays=True))
arrays = npst.arrays(scalars, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))


@st.composite
def laid_out(draw: st.DrawFn) -> np.ndarray:
    """An array, or a view of one; sometimes repeated until it is large."""
    array: np.ndarray = draw(arrays)
    if array.ndim and array.size and draw(st.booleans()):
        array = np.concatenate([array] * draw(st.integers(2, 40)))
    if draw(st.booleans()):
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    if array.ndim and draw(st.booleans()):
        array = array[draw(npst.basic_indices(array.shape, allow_ellipsis=True, allow_newaxis=True))]
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    return np.asarray(array)


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.builds(lambda data, times: data * times, st.binary(min_size=1, max_size=4), st.integers(1000, 5000)),
    st.builds(lambda data, times: bytearray(data * times), st.binary(max_size=4), st.integers(1000, 5000)),
    laid_out(),
)
payloads = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=5), inner, max_size=5),
        st.builds(Reading, inner, st.lists(inner, max_size=3)),
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60)
@given(payload=payloads)
def test_generated_payloads(way: str, payload: Any) -> None:
    with Loop(WAYS[way]()) as loop:
        assert same(loop.trip(payload), expected(payload, loop))
        assert loop.held_slots() == 0


def across_processes(payloads: list[Any]) -> None:
    pipe = Pipe(policy="block")
    expect = Expect("expect", payloads)
    chain(pipe, Items("items", payloads), expect)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    statistics = pipe.statistics()
    assert (expect.board[0], expect.board[1]) == (len(payloads), 0)
    assert {name: routine.errors for name, routine in statistics.routines.items()} == {"items": 0, "expect": 0}


def test_all_of_it_across_processes() -> None:
    across_processes(
        [
            *(value for value in PAYLOADS.values() if value is not None),
            *(LAYOUTS[layout](filled(dtype, (48, 60))) for dtype in DTYPES for layout in LAYOUTS),
            *subclasses(5),
            *subclasses(5000),
        ]
    )


@settings(max_examples=15)
@given(st.lists(payloads.filter(lambda payload: payload is not None), max_size=5))
def test_generated_payloads_across_processes(payloads: list[Any]) -> None:
    across_processes(payloads)
