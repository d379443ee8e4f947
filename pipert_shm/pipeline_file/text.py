"""Values as YAML that people read, and that readers of YAML 1.1 read alike."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.scalarstring import LiteralScalarString, SingleQuotedScalarString

_OF_1_1 = {"y", "n", "yes", "no", "on", "off"}  # which is a boolean for some readers


def yaml_of(*documents: Any) -> str:
    r"""The documents, one after the other, with keys in their order. Numbers of a list stand in one line.

    >>> print(yaml_of({"b": [1, 2], "a": {"x": "on", "text": "1\n2\n"}}), end="")
    b: [1, 2]
    a:
      x: 'on'
      text: |
        1
        2
    """
    yaml = YAML()
    yaml.default_flow_style, yaml.width, yaml.version = False, 120, None
    yaml.representer.ignore_aliases = lambda *_: True
    text = StringIO()
    yaml.dump_all([_quoted(document) for document in documents], text)
    return text.getvalue()


def _quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = CommentedSeq(_quoted(item) for item in value)
        if all(isinstance(item, int | float) for item in value):
            items.fa.set_flow_style()
        return items
    if isinstance(value, str) and "\n" in value:
        return LiteralScalarString(value)
    return SingleQuotedScalarString(value) if isinstance(value, str) and value.lower() in _OF_1_1 else value
