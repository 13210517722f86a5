"""Writes the table of settings in docs/serving.md from `service.settings`: `python -m docs.settings_table`.

A test fails when the page and the settings differ.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from service.settings import Settings

PAGE = Path(__file__).with_name("serving.md")
_MARKED = re.compile(r"(<!-- settings: [^\n]*-->\n)(.*?)(\n<!-- /settings -->)", re.DOTALL)


def settings_table() -> str:
    """The table in Markdown, a row a setting, in the order of the class."""
    rows = [_row(name, field) for name, field in Settings.model_fields.items()]
    lines = ["| option | default | meaning |", "|---|---|---|", *rows]
    return "\n" + "\n".join(lines) + "\n"


def table_on_page(text: str) -> str:
    """The table that the page holds. Raises ValueError for a page without the marks."""
    found = _MARKED.search(text)
    if found is None:
        raise ValueError(f"'{PAGE.name}' must hold the marks of the settings table; put them back")
    return found.group(2)


def main() -> None:
    """Rewrite the table in place."""
    text = PAGE.read_text(encoding="utf-8")
    table_on_page(text)
    table = settings_table()
    PAGE.write_text(
        _MARKED.sub(lambda marked: marked[1] + table + marked[3], text),
        encoding="utf-8",
    )


def _row(name: str, field: FieldInfo) -> str:
    option = {"arms": "--arm", "shadows": "--shadow"}.get(name, "--" + name.replace("_", "-"))
    default = "" if field.default in ((), "", None) else f"`{field.default}`"
    meaning = field.description or ""
    if get_origin(field.annotation) is Literal:
        choices = ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
        meaning = f"{choices}: {meaning}"
    return f"| `{option}` | {default} | {meaning} |"


if __name__ == "__main__":
    main()
