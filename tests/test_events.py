"""Which methods of a routine handle which events."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from pipert_shm import UnknownEvent, UnknownTarget, events
from pipert_shm.events import LARGEST_PARAMETERS, Audience, Wiring, accepted, handlers_of


class Base:
    @events("one")
    def first(self) -> str:
        return "base first"

    @events("one")
    def second(self) -> str:
        return "base second"

    @events("two")
    @events("three")
    def several(self) -> str:
        return "base several"

    def unmarked(self) -> str:
        return "base unmarked"


class Overrides(Base):
    def first(self) -> str:
        return "override of first"

    @events("four")
    def second(self) -> str:
        return "override of second"


class Adds(Base):
    @events("one")
    def third(self) -> str:
        return "third"


class Mixin:
    @events("one")
    def mixed_in(self) -> str:
        return "mixed in"

    @events("five")
    def unmarked(self) -> str:
        return "mixin's unmarked"


class Diamond(Overrides, Adds, Mixin):
    pass


def test_several_handlers_of_one_event_and_several_events_of_one_handler() -> None:
    assert handlers_of(Base) == {"one": ["first", "second"], "two": ["several"], "three": ["several"]}


def test_a_class_without_handlers() -> None:
    assert handlers_of(object) == {}


def test_marks_are_inherited_also_by_overriding_methods() -> None:
    handlers = handlers_of(Overrides)
    assert handlers == {"one": ["first", "second"], "two": ["several"], "three": ["several"], "four": ["second"]}
    assert [getattr(Overrides(), name)() for name in handlers["one"]] == ["override of first", "override of second"]


def test_handlers_of_base_classes_come_first() -> None:
    assert handlers_of(Adds)["one"] == ["first", "second", "third"]


def test_each_handler_once_however_many_ways_it_is_inherited() -> None:
    handlers = handlers_of(Diamond)
    assert sorted(handlers["one"]) == ["first", "mixed_in", "second", "third"]
    assert len(handlers["one"]) == len(set(handlers["one"]))
    assert handlers["five"] == ["unmarked"]


def test_the_mark_leaves_the_method_as_it_is() -> None:
    def method(self: Any, value: int = 3) -> int:
        """Says so."""
        return value

    signature = inspect.signature(method)
    marked = events("event")(method)
    assert marked is method
    assert (marked.__doc__, inspect.signature(marked)) == ("Says so.", signature)


# ---- parameters ----------------------------------------------------------------------------------


def takes_two(one: int, two: int = 2) -> None: ...


def takes_any(one: int, **others: Any) -> None: ...


def takes_keyword(*, one: int) -> None: ...


def takes_none() -> None: ...


@pytest.mark.parametrize(
    ("handler", "expected"),
    [(takes_two, {"one": 1}), (takes_any, {"one": 1, "more": 5}), (takes_keyword, {"one": 1}), (takes_none, {})],
)
def test_a_handler_gets_those_parameters_that_it_takes(handler: Any, expected: dict[str, int]) -> None:
    assert accepted(inspect.signature(handler), {"one": 1, "more": 5}) == expected


# ---- addresses -----------------------------------------------------------------------------------


@pytest.fixture
def audience() -> Audience:
    two, none = inspect.signature(takes_two), inspect.signature(takes_none)
    return Audience(
        {"front": ("camera", "motion"), "back": ("screen",)},
        {"camera": {"zoom": (two,)}, "motion": {"zoom": (two, none), "reset": (none,)}, "screen": {}},
        {},
    )


@pytest.mark.parametrize(
    ("flows", "routine", "expected"),
    [
        (None, None, ("camera", "motion", "screen")),
        ({}, None, ("camera", "motion", "screen")),
        ({"front": []}, None, ("camera", "motion")),
        ({"back": ["screen"], "front": ["motion"]}, None, ("screen", "motion")),
        ({"front": ["motion"], "back": []}, None, ("motion", "screen")),
        (None, "motion", ("motion",)),
    ],
)
def test_targets(audience: Audience, flows: Any, routine: str | None, expected: tuple[str, ...]) -> None:
    event = audience.address("stop", flows, routine, {})
    assert (event.name, event.routines) == ("stop", expected)


def test_an_event_that_some_of_those_addressed_handle(audience: Audience) -> None:
    assert audience.address("reset", None, None, {}).routines == ("camera", "motion", "screen")
    with pytest.raises(UnknownEvent):
        audience.address("reset", {"front": ["camera"]}, None, {})


def test_a_parameter_that_any_handler_needs(audience: Audience) -> None:
    assert audience.address("zoom", None, None, {"one": 1, "unknown": 2}).parameters() == {"one": 1, "unknown": 2}
    with pytest.raises(UnknownEvent, match="'one'"):
        audience.address("zoom", None, None, {"two": 1})


@pytest.mark.parametrize("name", ["start", "stop", "kill", "unlink", "log_data"])
def test_built_in_events_need_no_handler(audience: Audience, name: str) -> None:
    params = {"unlink_routine_name": "screen"} if name == "unlink" else {}
    assert audience.address(name, {"back": []}, None, params).routines == ("screen",)
    with pytest.raises(UnknownTarget):
        audience.address(name, None, "nobody", params)


def test_built_in_events_need_their_parameters(audience: Audience) -> None:
    with pytest.raises(UnknownEvent, match=r"'unlink'.*'unlink_routine_name'"):
        audience.address("unlink", None, None, {})


# ---- what is on its way ----------------------------------------------------------------------------


class Name(str):
    """A name that is more than text."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        raise AssertionError("pickled")


class Stranger:
    """What no process but a flow may unpickle."""

    def __reduce__(self) -> Any:
        return _trap, ()


def _trap() -> None:
    raise AssertionError("unpickled")


def test_an_event_can_be_passed_on_unread(audience: Audience) -> None:
    event = audience.address("zoom", None, None, {"one": Stranger()})
    again = pickle.loads(pickle.dumps(event))
    assert (again, again.wiring) == (event, None)
    with pytest.raises(AssertionError, match="unpickled"):
        again.parameters()


def test_an_event_without_parameters(audience: Audience) -> None:
    event = audience.address("stop", None, None, {})
    assert (event.params, event.parameters()) == (b"", {})


def test_the_names_of_an_event_are_plain_text() -> None:
    audience = Audience({Name("flow"): (Name("camera"), Name("screen"))}, {"camera": {}, "screen": {}}, {})
    link = {"link_routine_name": Name("screen"), "policy": Name("block"), "capacity": np.int64(4), "timeout": np.float32(1.5)}
    for event in (
        audience.address(Name("stop"), None, None, {}),
        audience.address(Name("stop"), None, Name("camera"), {}),
        audience.address("stop", {Name("flow"): [Name("camera")]}, None, {}),
        audience.address("unlink", None, "camera", {"unlink_routine_name": "screen"}),
    ):
        assert {type(event.name), *map(type, event.routines)} == {str}
        pickle.dumps(event)
    wiring = audience._wiring("link", link)
    assert wiring == Wiring("screen", "block", 4, 1.5)
    assert [type(value) for value in wiring.values()] == [str, str, int, float]


def test_wiring_is_of_link_and_unlink_only(audience: Audience) -> None:
    assert audience.address("unlink", None, "camera", {"unlink_routine_name": "nobody"}).wiring == Wiring("nobody")
    event = audience.address("link", None, "camera", {"link_routine_name": "screen", "capacity": 3})
    assert event.wiring == Wiring("screen", capacity=3)
    assert event.parameters() == {"link_routine_name": "screen", "capacity": 3}
    assert audience.address("update_fps", None, "camera", {"fps": 3}).wiring is None


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("link", {"link_routine_name": 3}, "link_routine_name must be a str, not 3"),
        ("link", {"link_routine_name": ["screen"]}, "link_routine_name must be a str"),
        ("link", {"link_routine_name": "screen", "policy": []}, "unknown policy"),
        ("link", {"link_routine_name": "screen", "capacity": True}, "capacity must be"),
        ("link", {"link_routine_name": "screen", "timeout": "1s"}, "timeout must be"),
        ("unlink", {"unlink_routine_name": {}}, "unlink_routine_name must be a str"),
        ("update_fps", {"fps": "fast"}, "fps must be"),
        ("update_fps", {"fps": float("nan")}, "fps must be"),
        ("zoom", {"one": bytes(LARGEST_PARAMETERS)}, "1,048,576 is the limit"),
    ],
)
def test_parameters_that_do_not_fit(audience: Audience, name: str, params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        audience.address(name, None, None, params)


@pytest.mark.parametrize(
    ("flows", "routine"),
    [
        (None, 3),
        (None, ["camera"]),
        ("front", None),
        (["front"], None),
        ({"front": "camera"}, None),
        ({"front": 3}, None),
        ({"front": [3]}, None),
        ({3: []}, None),
    ],
)
def test_addresses_that_are_none(audience: Audience, flows: Any, routine: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a (str|dict of lists)"):
        audience.address("stop", flows, routine, {})


def test_an_event_s_name_is_a_str(audience: Audience) -> None:
    with pytest.raises(ValueError, match="an event's name must be a str, not 3"):
        audience.address(3, None, None, {})  # type: ignore[arg-type]
