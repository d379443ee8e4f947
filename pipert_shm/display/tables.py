"""How objects show themselves: as aligned text in a terminal, and as HTML in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipert_shm.frozen import Frozen


def printable(text: str) -> str:
    r"""The text with control characters escaped, so that a terminal shows them and does not obey them.

    >>> printable("gate\x1b[2J")
    'gate\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Table(Frozen):
    """Rows of cells, below the names of their columns. Control characters in a cell are escaped.

    >>> print(Table(("wire", "sent"), [("camera -> screen", "3"), ("camera -> disk", "12")]))
    wire              sent
    camera -> screen  3
    camera -> disk    12
    >>> Table(("name",), [("<b>",)]).html()
    '<table><thead><tr><th>name</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        rows = [self.columns, *([printable(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.columns))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def html(self) -> str:
        """The table as HTML for a notebook; the cells are escaped."""
        body = "".join(_html_row(row, "td") for row in self.rows)
        return f"<table><thead>{_html_row(self.columns, 'th')}</thead><tbody>{body}</tbody></table>"


def _escaped(text: str) -> str:
    from html import escape  # its list of entities takes 2 ms, which few programs need

    return escape(text)


def _html_row(cells: Iterable[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{_escaped(printable(cell))}</{tag}>' for cell in cells)}</tr>"


class HtmlRepr:
    """Shows its `repr` in a notebook."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return f"<code>{_escaped(repr(self))}</code>"
