"""The site of the documentation: `make docs` builds docs/_build/html from it.

The source directory is the root of the repository, so that a relative link leads to the same file on the site and on GitHub. A
link that leads nowhere is a warning, and warnings are errors.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extensions")]

import pipert_shm  # noqa: E402 - it is not installed in every place where the site is built

project = "pipert_shm"
release = version = pipert_shm.__version__
root_doc = "docs/index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_line", "pipeline_schema"]
include_patterns = ["docs/**", "examples/*.md", "bench/README.md", "csrc/model/README.md", "CHANGELOG.md"]
exclude_patterns = ["docs/_build", ".venv", "**/.*"]

html_theme = "furo"
html_title = "pipert_shm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # an index.html, which leads to docs/index.html
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
autodoc_type_aliases = {"DTypeLike": "numpy.typing.DTypeLike"}
napoleon_use_ivar = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
default_role = "name-or-code"

# Other projects' names can't be looked up without a network, and internal modules' names are in no reference.
nitpick_ignore_regex = [(r"py:.*", r"(?!pipert_shm\.).*"), (r"py:.*", r"pipert_shm\.[a-z_]+\..*")]

logger = logging.getLogger(__name__)


def plain_examples(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Shows an example of a docstring as a program to paste: without prompts, results as comments."""
    shown: list[str] = []
    inside = False
    for line in lines:
        text = line.strip()
        if text.startswith(">>>") and not inside:
            inside = True
            shown += ["", ".. code-block:: python", ""]
        elif not text:
            inside = False
        if not inside:
            shown.append(line)
        elif text.startswith((">>>", "...")):
            if text.startswith(">>>") and shown[-1].startswith("    "):
                shown.append("")  # after an indented line
            shown.append(f"   {text[4:]}")
        else:
            shown.append(f"   # {text}")
    lines[:] = [line.split("# doctest:")[0].rstrip() for line in shown]


class NameOrCode(SphinxRole):
    """What stands in single backquotes: a link where it names something documented, else just code."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The link, as long as it may be one."""
        context = {key: self.env.ref_context.get(key) for key in ("py:module", "py:class")}
        link = addnodes.pending_xref(
            self.rawtext,
            nodes.literal(self.rawtext, self.text),
            refdoc=self.env.docname,
            refdomain="py",
            reftype="obj",
            reftarget=self.text.removesuffix("()"),
            refexplicit=False,
            **context,
        )
        return [link], []


def just_code(app: Sphinx, env: BuildEnvironment, node: nodes.Element, shown: nodes.Element) -> nodes.Element | None:
    """What `NameOrCode` could not find."""
    return shown if node["reftype"] == "obj" else None


def require_every_public_name(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns of names that the reference leaves out."""
    documented = env.domains["py"].data["objects"]
    for package in filter(find_spec, ("pipert_shm", "pipert_shm.testing")):
        for name in import_module(package).__all__:
            if f"{package}.{name}" not in documented:
                logger.warning("the reference has no entry for %s.%s: give it one in docs/reference", package, name)


def skip_fields(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples ("Alias for field number 0"): the class's docstring has them."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def public_bases(app: Sphinx, name: str, obj: object, options: Any, bases: list[Any]) -> None:
    """Leaves out base classes that nobody uses by name."""
    is_internal = [base.__module__.startswith("pipert_shm.") and base.__name__ not in pipert_shm.__all__ for base in bases]
    bases[:] = [base for base, internal in zip(bases, is_internal, strict=True) if not internal]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-bases", public_bases)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-docstring", plain_examples)
    app.add_role("name-or-code", NameOrCode())
    app.connect("missing-reference", just_code)
    app.connect("env-check-consistency", require_every_public_name)
