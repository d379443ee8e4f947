"""What a PipeRT-Cockpit makes of what it is sent, and texts that it can't misread.

It reads an event `log` by the text before the first colon. `input`, `output` and `extra_image` make it look for a picture, and
without one it falls over, for everybody; so it does at a word that JavaScript's objects know of themselves. `fps` is a rate. In
the structure of a pipe it takes each single quote for a double one.
"""

from __future__ import annotations

import json
import logging
import re
import time

_LEVELS = ((logging.ERROR, "ERROR"), (logging.WARNING, "WARNING"), (logging.INFO, "INFO"), (logging.DEBUG, "DEBUG"))
_RATE = re.compile(r"fps: ?[\d.]+")
# The Cockpit looks its handlers up in a plain object, which has these, too.
_OF_ANY_OBJECT = (
    "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf",
    "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__", "__proto__",
)  # fmt: skip
_RESERVED = {"input", "output", "extra_image", "fps", *_OF_ANY_OBJECT}


def as_json(created: float, source: str, level: str, message: str) -> str:
    """An event's text.

    :param created: seconds since the epoch.
    :param source: dotted; its last part is the routine on whose page it stands.
    """
    stamp = time.strftime("%d-%m-%y %H:%M:%S", time.localtime(created))
    return json.dumps({"time": f"{stamp}.{int(created % 1 * 1000):03d}", "source": source, "level": level, "message": message})


def level_of(record: logging.LogRecord) -> str:
    """One of the levels that a Cockpit knows."""
    if record.levelno >= logging.ERROR and (record.exc_info or record.exc_text):
        return "EXCEPTION"
    return next((name for least, name in _LEVELS if record.levelno >= least), "PIPE_INFRASTRUCTURE")


def plain_text(text: str) -> str:
    """A record's text as one that is a line of the log, whatever it begins with; a rate stays one.

    >>> plain_text("input: none"), plain_text("output"), plain_text("fps: 29.9"), plain_text("inputs: 2")
    ('input = none', 'output =', 'fps: 29.9', 'inputs: 2')
    """
    word, _, rest = text.partition(":")
    if word not in _RESERVED or _RATE.fullmatch(text):
        return text
    return f"{word} ={rest}"


def picture_text(what: str, picture: str) -> str:
    """The message that shows a picture.

    :param what: `input` or `output`.
    :param picture: a JPEG in base64.
    """
    return f"{what}: , 'data': {{'image_base64': '{picture}'}}"


def structure_text(structure: object) -> str:
    r"""The message that tells a pipe's structure: JSON, its double quotes turned into single ones, those in names escaped.

    >>> print(structure_text({"name": "Anna's \"cam\""}))
    {'name': 'Anna\u0027s \u0022cam\u0022'}
    """
    text = re.sub(r"\\.", lambda escape: r"\u0022" if escape[0] == r"\"" else escape[0], json.dumps(structure))
    return text.replace("'", r"\u0027").replace('"', "'")
