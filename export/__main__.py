"""`python -m export`: see `export.cli`."""

from __future__ import annotations

from export.cli.main import exit_with, main

__all__ = ["main"]

if __name__ == "__main__":
    exit_with(main())
