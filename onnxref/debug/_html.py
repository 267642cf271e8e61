"""HTML of results in notebooks: small tables in which everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

# A notebook with more rows than this is slow, and nobody reads them.
MOST_ROWS = 200


def html_table(
    rows: Sequence[Sequence[Any]], columns: Sequence[str], *, title: str = "", most: int = MOST_ROWS
) -> str:
    """Return a table as HTML for `_repr_html_`; cells and title are plain text and are escaped.

    Args:
        rows: cells by row; floats are shown with four digits, None as an empty cell.
        columns: the heads of the columns.
        title: a caption above the table.
        most: rows to show; a last line tells how many were left out.
    """
    head = "".join(f"<th>{escape(str(column))}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:most])
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    left = len(rows) - most
    more = f"<p>and {left:,} more rows</p>" if left > 0 else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f'<td style="text-align:left">{escape("" if value is None else str(value))}</td>'
    return f"<td>{escape(f'{value:.4g}' if isinstance(value, float) else str(value))}</td>"
