"""A guess as the text of a schema file, each choice under a comment with its evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from export.infer.guess import Guess, GuessedField
from export.infer.sample import Sample
from service.bundle.schema import Kind, Role
from service.bundle.spelling import DEFAULT_SEPARATOR

_WIDTH: Final = 110
_USUAL_SEPARATOR: Final = {"tsv": "\t", "csv": ","}
_USUAL_QUOTE: Final = {"tsv": "", "csv": '"'}


def schema_text(found: Guess, sample: Sample, data: Path, *, known: str | None) -> str:
    """The schema file; `known` is the built-in schema that reads the log too."""
    lines = [*_head(found, sample, data, known), "", *_outcomes(found)]
    for field in found.fields:
        lines += ["", *_field(field)]
    if found.left_out:
        lines += ["", "# Left out; add a [[field]] for one that a request will have:"]
        for one in found.left_out:
            lines += _comment(f"- {one.column or '(no name)'}: {one.reason}")
    return "\n".join(lines) + "\n"


def _head(found: Guess, sample: Sample, data: Path, known: str | None) -> Iterator[str]:
    rows = f"all {sample.rows:,} rows" if sample.is_whole else f"the first {sample.rows:,} rows alone"
    yield from _comment(
        f"A guess from {rows} of {data.name}, to be read and edited: what a person knows of the log goes "
        "before it. Keys: docs/schema.md."
    )
    if known is not None:
        yield from _comment(f"The built-in schema {known} reads these rows too, and knows their columns.")
    if sample.skipped:
        yield from _comment(
            f"{sample.skipped:,} rows of another width were skipped; run with --on-malformed skip."
        )
    if not any(field.role is Role.CANDIDATE for field in found.fields):
        yield from _comment('No column is known to be the ad\'s: give those that are role = "candidate".')
    if found.request is not None:
        yield from _comment(
            f"{found.request} is the request's id: a client sends it as `id`, not as a field."
        )
    if found.user is not None:
        yield from _comment(f"{found.user} is the user's id: a client may send it as `user_id` too.")
    yield f"name = {_quoted(_name_of(data))}"
    yield f'format = "{sample.format}"'
    yield from _text_keys(sample)
    if found.missing:
        for word, fields in found.missing.items():
            shown = ", ".join(fields[:5]) + (f" and {len(fields) - 5} others" if len(fields) > 5 else "")
            yield from _comment(f"{_quoted(word)} is in {shown}.")
        yield f"missing = [{', '.join(map(_quoted, found.missing))}]"
    if found.true_pctr is not None:
        yield "# By its name and range the true probability of a click: for reports, no field."
        yield f"true_pctr = {_quoted(found.true_pctr)}"


def _text_keys(sample: Sample) -> Iterator[str]:
    if sample.dialect is None:
        return
    if sample.dialect.separator != _USUAL_SEPARATOR[sample.format]:
        yield f"separator = {_quoted(sample.dialect.separator)}"
    if sample.dialect.quote != _USUAL_QUOTE[sample.format]:
        yield f"quote = {_quoted(sample.dialect.quote)}"
    if not sample.has_header:
        yield "# The first line is a row, so the columns have no names but these."
        yield "header = false"
        yield "columns = ["
        names = [_quoted(name) for name in sample.cells.columns]
        for start in range(0, len(names), 12):
            yield f"  {', '.join(names[start : start + 12])},"
        yield "]"


def _outcomes(found: Guess) -> Iterator[str]:
    label = found.label.label
    yield from _comment(found.label.note)
    yield from ("[label]", f"column = {_quoted(label.column)}")
    if label.present:
        yield "present = true"
    else:
        yield f"click = [{', '.join(map(_quoted, label.click))}]"
        yield f"no_click = [{', '.join(map(_quoted, label.no_click))}]"
    if found.time is None:
        yield ""
        yield "# No column was found to be the time of the impression: the log is split by row order."
        return
    yield ""
    yield from _comment(found.time.note)
    yield "[timestamp]"
    yield f"column = {_quoted(found.time.timestamp.column)}"
    yield f"format = {_quoted(found.time.timestamp.format)}"


def _field(field: GuessedField) -> Iterator[str]:
    for note in field.notes:
        yield from _comment(note)
    yield "[[field]]"
    yield f"name = {_quoted(field.name)}"
    if field.column is not None and field.column != field.name:
        yield f"column = {_quoted(field.column)}"
    yield f'kind = "{field.kind}"'
    yield f'role = "{field.role}"'
    if field.derive is not None:
        yield f'derive = "{field.derive}"'
    if field.kind is Kind.SEQUENCE:
        yield f"max_length = {field.max_length}"
        if field.separator is not None and field.separator != DEFAULT_SEPARATOR:
            yield f"separator = {_quoted(field.separator)}"
    if field.same_values_as is not None:
        yield f"same_values_as = {_quoted(field.same_values_as)}"


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's, but for the one control character that JSON lets through."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> Iterator[str]:
    """Lines of a comment, without what TOML forbids in one."""
    line = ""
    for word in re.sub(r"[\x00-\x1f\x7f]", " ", text).split():
        if line and len(line) + len(word) + 3 > _WIDTH:
            yield f"# {line}"
            line = "  "[: 2 * text.startswith("- ")]
        line = f"{line} {word}" if line.strip() else f"{line}{word}"
    yield f"# {line}"


def _name_of(data: Path) -> str:
    """The log's name: the file's, without its endings."""
    return data.name.removesuffix(".gz").rpartition(".")[0] or data.name
