"""The directive `command-line`: a section for each command of `pipert-shm`, made of its help texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pipert_shm.cli.commands import app as pipert_shm_app


def section(name: str, command: Any, mark: str) -> Iterator[str]:
    """A command, in reStructuredText.

    :param mark: what its title is underlined with.
    """
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    subcommands = getattr(command, "commands", {})
    usage = [name, *(["[OPTIONS]"] if options else []), *map(shown, arguments), *(["COMMAND"] if subcommands else [])]
    yield from (name, mark * len(name), "", ".. code-block:: text", "", f"   {' '.join(usage)}", "", command.help or "", "")
    for parameter in [*arguments, *options]:
        if getattr(parameter, "help", None):
            default = "" if parameter.default in (None, False) else f" By default ``{parameter.default}``."
            yield from (f"``{shown(parameter)}``", f"   {parameter.help}{default}")
    yield ""
    if command.epilog:
        told, *lines = command.epilog.split("\n\n- ")
        yield from (told, "", *([".. code-block:: text", "", *(f"   {line}" for line in lines), ""] if lines else []))
    for own, subcommand in subcommands.items():
        yield from section(f"{name} {own}" if mark == "=" else f"{name} … {own}", subcommand, "-" if mark == "=" else "~")


def shown(parameter: Any) -> str:
    """An argument or an option, as one writes it."""
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        return (name if parameter.required else f"[{name}]") + ("…" if parameter.nargs == -1 else "")
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join(parameter.opts) + value


class CommandLine(SphinxDirective):
    """All commands."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        lines = section("pipert-shm", typer.main.get_command(pipert_shm_app), "=")
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
