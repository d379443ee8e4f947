"""Names of classes, by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from pipert_shm.errors import shown
from pipert_shm.limits import is_count

Names: TypeAlias = Sequence[str] | Mapping[int, str]
"""Class names by class id: a list, or a mapping that may leave ids out."""


def checked_names(names: Names) -> tuple[str, ...] | dict[int, str]:
    """Returns the names as `Detections` keeps them.

    :raises TypeError: when they are a text, a set, or a mapping whose keys are not class ids.

    >>> checked_names({1: "bicycle", 0: "person"}), checked_names({2: "car"})
    (('person', 'bicycle'), {2: 'car'})
    """
    if isinstance(names, str | bytes | set | frozenset) or not isinstance(names, Iterable):
        raise TypeError(f"names are a list of class names, such as ['person'], or a dict by class id, not {shown(names)}")
    if not isinstance(names, Mapping):
        by_id = dict(enumerate(names))
    else:
        by_id = dict(names)
        if wrong := [key for key in by_id if not is_count(key, 0)]:
            raise TypeError(f"names as a dict go by class id, such as {{0: 'person'}}, not by {shown(wrong[0])}")
    if wrong_names := [name for name in by_id.values() if not isinstance(name, str)]:
        raise TypeError(f"names are texts, not {shown(wrong_names[0])}")
    if by_id.keys() == set(range(len(by_id))):
        return tuple(by_id[number] for number in range(len(by_id)))
    return {int(number): name for number, name in by_id.items()}


def class_numbers(classes: Sequence[str | int], names: Names) -> frozenset[int]:
    """Returns the ids of classes that are given by name or by id. A name that several ids have stands for all of them.

    :param names: of all classes; without any, classes are given by id.
    :raises TypeError: when the classes are not a list of names and ids.
    :raises ValueError: when there is no such class.

    >>> sorted(class_numbers(["car", 0], ["person", "bicycle", "car"]))
    [0, 2]
    """
    if isinstance(classes, str) or not isinstance(classes, Sequence | set | frozenset):
        raise TypeError(f"classes are a list of names or ids, such as ['person'], not {shown(classes)}")
    by_id = checked_names(names)
    known = dict(by_id) if isinstance(by_id, dict) else dict(enumerate(by_id))
    numbers: set[int] = set()
    for each in classes:
        if is_count(each, 0) and (not known or each in known):
            numbers.add(int(each))
        elif isinstance(each, str) and each in known.values():
            numbers.update(number for number, name in known.items() if name == each)
        elif not isinstance(each, str) and not is_count(each, 0):
            raise TypeError(f"a class is given by its name or its id, not by {shown(each)}")
        else:
            there = f"these are {shown(sorted(known.values()))}" if known else "without names, classes are given by id"
            raise ValueError(f"there is no class {shown(each)}; {there}")
    return frozenset(numbers)
