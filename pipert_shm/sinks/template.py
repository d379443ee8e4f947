"""Names of topics and streams with parts that each message fills in."""

from __future__ import annotations

import re
import string
import zlib

from pipert_shm.errors import shown, suggestion
from pipert_shm.sinks.letter import Letter

FIELDS = ("camera", "kind", "phase", "rule", "zone", "label")
NONE = "none"  # what stands for a field that a message does not have


class Template:
    """A text with `{camera}`, `{kind}`, `{phase}`, `{rule}`, `{zone}` or `{label}` in it.

    :param what: the parameter that it is, for errors.
    :param forbidden: a pattern of characters that a field's value may not have: see `apart`.
    :raises TypeError: when it is no text.
    :raises ValueError: when it is empty, not whole, or has another field.

    >>> Template("topic", "pipert/{camera}/{kind}", "[/+#]").of(Letter("1", "gate/left", "enter", {}))
    'pipert/gate_left-9ae6b296/enter'
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
        return apart(self._forbidden, value if isinstance(value, str) and value else NONE)


def apart(forbidden: re.Pattern[str], text: str) -> str:
    """Returns a text with `_` for each forbidden character, and then a check sum: two texts that differ stay different.

    >>> apart(re.compile("/"), "a/b"), apart(re.compile("/"), "a_b")
    ('a_b-07f4401c', 'a_b')
    """
    plain = forbidden.sub("_", text)
    return plain if plain == text else f"{plain}-{zlib.crc32(text.encode('utf-8', 'backslashreplace')):08x}"
