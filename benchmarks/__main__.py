"""Lists the benchmarks and what each measures: `python -m benchmarks`."""

from __future__ import annotations

import ast
from pathlib import Path

from loadtest.text_table import aligned


def main() -> None:
    """Prints a line a benchmark; `python -m benchmarks.NAME --help` says more."""
    print(aligned([list(each) for each in benchmarks().items()], left={0, 1}))


def benchmarks() -> dict[str, str]:
    """By name, the first line of the docstring of each command: a module, or a package's `__main__`."""
    folder = Path(__file__).parent
    files = {file.stem: file for file in folder.glob("*.py")}
    files |= {file.parent.name: file for file in folder.glob("*/__main__.py")}
    found = {}
    for name, file in sorted(files.items()):  # none is imported
        about = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if f"python -m benchmarks.{name}" in about:
            found[name] = about.splitlines()[0]
    return found


if __name__ == "__main__":
    main()
