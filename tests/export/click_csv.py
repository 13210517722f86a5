"""Small raw logs as files: clicks and their fields as CSV, and the schema file that describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from export.stages.plan import LogPlan


def write_clicks(
    folder: Path,
    name: str,
    roles: Mapping[str, str],
    rows: Iterable[Sequence[object]],
    *,
    others: Sequence[str] = (),
    more: str = "",
) -> LogPlan:
    """FOLDER/NAME.csv, a row being click, fields (categorical, by role) and the cells of `others`.

    NAME.toml describes it; `more` is the TOML of these other columns.
    """
    text = "\n".join(",".join(map(str, row)) for row in rows)
    data, schema = folder / f"{name}.csv", folder / f"{name}.toml"
    data.write_text(",".join(["click", *roles, *others]) + f"\n{text}\n")
    fields = "".join(
        f'[[field]]\nname = "{field}"\nkind = "categorical"\nrole = "{role}"\n'
        for field, role in roles.items()
    )
    schema.write_text(f'name = "{name}"\nformat = "csv"\n[label]\ncolumn = "click"\n{fields}{more}')
    return LogPlan(data=data, schema=str(schema))
