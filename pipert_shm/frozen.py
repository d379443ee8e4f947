"""A base for many small immutable classes."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError
from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Frozen:
    """What `@dataclass(frozen=True)` makes of a class, for its subclasses.

    `dataclass` compiles half a dozen functions for each class: that took 15 to 20 ms of each import for the messages alone.
    Here all classes share these functions. They are slower, which is nothing beside sending a message.

    Attributes:
        FIELDS: the types of the fields, by name, in their order.
    """

    FIELDS: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls.FIELDS = {**cls.FIELDS, **inspect.get_annotations(cls)}

    def __init__(self, *values: object, **named: object) -> None:
        """:raises TypeError: when a field is missing, given twice, or unknown."""
        fields = self.FIELDS
        given = dict(zip(fields, values, strict=False))
        missing = [name for name in fields if name not in given and name not in named and not hasattr(type(self), name)]
        if len(values) > len(fields) or missing or not named.keys() <= fields.keys() - given.keys():
            raise TypeError(f"{type(self).__name__} takes ({', '.join(fields)}), not {(*values, *named)}")
        vars(self).update(given, **named)

    def replaced(self, **changes: object) -> Self:
        """A copy in which these fields have other values."""
        return type(self)(**{**dict(zip(self.FIELDS, self.values(), strict=True)), **changes})

    def values(self) -> tuple[Any, ...]:
        """The values of all fields."""
        return tuple(getattr(self, name) for name in self.FIELDS)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to {name!r} of a {type(self).__name__}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete {name!r} of a {type(self).__name__}")

    def __eq__(self, other: object) -> bool:
        return self.values() == other.values() if isinstance(other, Frozen) and type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.FIELDS)})"
