"""Makes texts that a PipeRT-Cockpit can't misread.

A Cockpit chooses what to do with an event `log` by the text before the first colon. At `input`, `output` and `extra_image` it
looks for a picture. Without one it crashes, for all its users. So it does at the name of a property of every JavaScript object.
`fps` is a rate. In the structure of a pipe it replaces each single quote with a double one.
"""

from __future__ import annotations

import json
import logging
import re
import time

_LEVELS = ((logging.ERROR, "ERROR"), (logging.WARNING, "WARNING"), (logging.INFO, "INFO"), (logging.DEBUG, "DEBUG"))
_RATE = re.compile(r"fps: ?[\d.]+")
# The Cockpit looks up its handlers in a plain object, which has these properties, too.
_OF_ANY_OBJECT = (
    "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf",
    "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__", "__proto__",
)  # fmt: skip
_RESERVED = {"input", "output", "extra_image", "fps", *_OF_ANY_OBJECT}


def as_json(created: float, source: str, level: str, message: str) -> str:
    """Returns an event's text.

    :param created: seconds since the epoch.
    :param source: a dotted name; its last part is the routine on whose page the text stands.
    """
    stamp = time.strftime("%d-%m-%y %H:%M:%S", time.localtime(created))
    return json.dumps({"time": f"{stamp}.{int(created % 1 * 1000):03d}", "source": source, "level": level, "message": message})


def level_of(record: logging.LogRecord) -> str:
    """Returns the record's level as a Cockpit knows it."""
    if record.levelno >= logging.ERROR and (record.exc_info or record.exc_text):
        return "EXCEPTION"
    return next((name for least, name in _LEVELS if record.levelno >= least), "PIPE_INFRASTRUCTURE")


def plain_text(text: str) -> str:
    """Changes a text so that it is a line of the log, whatever it begins with. A rate stays a rate.

    >>> plain_text("input: none"), plain_text("output"), plain_text("fps: 29.9"), plain_text("inputs: 2")
    ('input = none', 'output =', 'fps: 29.9', 'inputs: 2')
    """
    word, _, rest = text.partition(":")
    if word not in _RESERVED or _RATE.fullmatch(text):
        return text
    return f"{word} ={rest}"


def picture_text(what: str, picture: str) -> str:
    """Returns the message that shows a picture.

    :param what: `input` or `output`.
    :param picture: a JPEG in base64.
    """
    return f"{what}: , 'data': {{'image_base64': '{picture}'}}"


def structure_text(structure: object) -> str:
    r"""Returns the message with a pipe's structure: JSON with single quotes for double ones. Quotes in names are escaped.

    >>> print(structure_text({"name": "Anna's \"cam\""}))
    {'name': 'Anna\u0027s \u0022cam\u0022'}
    """
    text = re.sub(r"\\.", lambda escape: r"\u0022" if escape[0] == r"\"" else escape[0], json.dumps(structure))
    return text.replace("'", r"\u0027").replace('"', "'")
