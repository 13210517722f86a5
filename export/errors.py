"""What the export room tells a person who gave it something it cannot work with."""

from __future__ import annotations


class ExportError(ValueError):
    """An input, an option or a missing stage that ends the export: one line saying what, and what to do."""
