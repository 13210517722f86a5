"""Lists the benchmarks and what each measures: `python -m benchmarks`."""

from __future__ import annotations

import ast
from pathlib import Path

from loadtest.text_table import aligned


def main() -> None:
    """Prints a line a benchmark; `python -m benchmarks.NAME --help` says more."""
    print(aligned([list(each) for each in benchmarks().items()], left={0, 1}))


def benchmarks() -> dict[str, str]:
    """By name, the first line of the docstring of each module that is a command. None is imported."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if f"python -m benchmarks.{file.stem}" in about:
            found[file.stem] = about.splitlines()[0]
    return found


if __name__ == "__main__":
    main()
