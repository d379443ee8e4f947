"""The directive `pipeline-schema`: the fields of a pipeline's YAML file, made of docs/pipeline.schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SCHEMA = Path(__file__).parent.parent / "pipeline.schema.json"


def kind_of(field: dict[str, Any]) -> str:
    """What a field's value has to be, in a few words."""
    if "anyOf" in field:
        return " or ".join(kind_of(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    if "enum" in field:
        return ", ".join(f"``{value}``" for value in field["enum"])
    if "$ref" in field:
        return "a class"
    if field["type"] == "array":
        return f"a list: {kind_of(field['items'])}"
    kinds = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "``true`` or ``false``"}
    return kinds.get(field["type"], "names and values")


def fields_of(definition: dict[str, Any]) -> Iterator[str]:
    """A definition's fields, in reStructuredText."""
    yield from (definition["description"], "")
    for name, field in definition["properties"].items():
        default = field.get("default")
        told = [kind_of(field)]
        if name in definition.get("required", ()):
            told.append("required")
        elif default not in (None, {}, []):
            told.append(f"by default ``{json.dumps(default) if isinstance(default, bool) else default}``")
        yield from (
            f"``{name}``",
            f"   {field.get('description', '')}",
            "",
            f"   {', '.join(told)}".replace("   ", "   Value: ", 1),
            "",
        )
    yield ""


class PipelineSchema(SphinxDirective):
    """The fields of one part of the file: `pipeline-schema:: RoutineSettings`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A list of them."""
        self.env.note_dependency(str(SCHEMA))
        schema = json.loads(SCHEMA.read_text())
        return self.parse_text_to_nodes("\n".join(fields_of(schema["$defs"][self.arguments[0]])))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("pipeline-schema", PipelineSchema)
    return {"parallel_read_safe": True}
