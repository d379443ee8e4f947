"""Scrolling and filtering by keys, as terminals send them."""

from __future__ import annotations

import pytest

from pipert_shm.display.pager import Pager

DOWN, UP, PAGE_DOWN, PAGE_UP, HOME, END = "\x1b[B", "\x1bOA", "\x1b[6~", "\x1b[5~", "\x1b[H", "\x1b[4~"


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        ("", 0),
        (UP, 0),
        (DOWN * 3 + UP, 2),
        ("jjjk", 2),
        (PAGE_DOWN, 9),
        (PAGE_DOWN + PAGE_UP + PAGE_UP, 0),
        (END, 15),
        (END + "x" + UP, 14),
        (END + HOME + DOWN, 1),
        (PAGE_DOWN * 9, 15),
        ("\x1b[1;5C\x00é", 0),
    ],
)
def test_where_keys_lead_in_25_lines_on_a_page_of_10(keys: str, first: int) -> None:
    pager = Pager()
    pager.window(25, 10)
    for key in keys.replace("\x1b", "|\x1b").split("|"):  # each as it comes: a window is shown between two
        pager.press(key)
        window = pager.window(25, 10)
    assert (window, pager.wants_end) == (range(first, first + 10), False)
    assert f"lines {first + 1}-{first + 10} of 25" in pager.status(window, 25)


def test_a_text_that_shrinks_takes_the_window_along() -> None:
    pager = Pager()
    pager.window(100, 10)
    pager.press(END)
    assert pager.window(100, 10) == range(90, 100)
    assert pager.window(12, 10) == range(2, 12)
    assert pager.window(3, 10) == range(3)
    assert (pager.window(0, 10), pager.status(range(0), 0)[:14]) == (range(0), "lines 0-0 of 0")


def test_a_filter_is_typed_kept_and_given_up() -> None:
    pager = Pager()
    pager.press("/caq\x7fmera")
    assert (pager.filter, pager.is_typing, pager.wants_end) == ("camera", True, False)
    pager.press("\r")
    assert pager.status(range(4), 4).startswith("filter: camera (Esc: all) · lines 1-4 of 4")
    pager.press("/b\x1b")
    assert (pager.filter, pager.is_typing) == ("", False)
    pager.press("/b\n\x1b")
    assert pager.filter == ""
    pager.press("q")
    assert pager.wants_end
