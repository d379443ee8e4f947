"""Names of topics and streams with parts that each message fills in."""

from __future__ import annotations

import re
import string

from pipert_shm.errors import shown, suggestion
from pipert_shm.sinks.letter import Letter

FIELDS = ("camera", "kind", "phase", "rule", "zone", "label")
NONE = "none"  # what stands for a field that a message does not have


class Template:
    """A text with `{camera}`, `{kind}`, `{phase}`, `{rule}`, `{zone}` or `{label}` in it.

    :param what: the parameter that it is, for errors.
    :param forbidden: a pattern of characters that a field's value may not have; `_` stands for each.
    :raises TypeError: when it is no text.
    :raises ValueError: when it is empty, not whole, or has another field.

    >>> Template("topic", "pipert/{camera}/{kind}", "[/+#]").of(Letter("1", "gate/left", "enter", {}))
    'pipert/gate_left/enter'
    """

    def __init__(self, what: str, text: str, forbidden: str = r"\0") -> None:
        if not isinstance(text, str):
            raise TypeError(f"{what} is a text, not {shown(text)}")
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
        except ValueError as error:
            raise ValueError(f"{what} {shown(text)} is not whole: {error}") from None
        if not text:
            raise ValueError(f"{what} is empty")
        if unknown := [field for field in fields if field not in FIELDS]:
            raise ValueError(
                f"{what} {shown(text)}: there is no {{{unknown[0]}}}; there are: {', '.join(FIELDS)}"
                f"{suggestion(unknown[0], FIELDS)}"
            )
        self._text = text
        self._forbidden = re.compile(forbidden)

    def of(self, letter: Letter) -> str:
        """Returns the text for a letter."""
        body = letter.body
        values = {name: body.get(name) for name in FIELDS} | {"camera": letter.camera, "kind": letter.kind}
        return self._text.format_map({name: self.safe(value) for name, value in values.items()})

    def safe(self, value: object) -> str:
        """Returns a field's value without what it may not have."""
        return self._forbidden.sub("_", value if isinstance(value, str) and value else NONE)
