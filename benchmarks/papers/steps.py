"""APG's Table 5: time and memory of a training step by version and widths, as `benchmarks.apg` measures them.

It needs no log. A JSON a set of widths is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.apg import PAPER, candidates, measure
from export.stages.work import Say
from service.bundle.folders import replacing

RANK, INNER_WIDTH, ROUNDS = 4, 32, 5
HEAD = ("widths", "version", "paper: s/epoch", "to base", "ours: ms/step", "to base", "paper: MB", "ours: MB")


def step_rows(folder: Path, say: Say) -> list[list[str]]:
    """A row for each set of widths and version: the paper's cost beside ours, and both against the base."""
    found = []
    for widths, paper in PAPER.items():
        figures = _figures(folder / f"steps-{'-'.join(map(str, widths))}.json", widths, say)
        for version, row in figures.items():
            found.append(_row(widths, version, row, figures["base"], paper))
    return found


def _figures(path: Path, widths: tuple[int, ...], say: Say) -> dict[str, dict[str, Any]]:
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    say(f"timing steps of widths {widths}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures = measure(candidates(widths, RANK, INNER_WIDTH), ROUNDS)
    torch.set_num_threads(threads)
    with replacing(path) as incoming:
        incoming.write_bytes(msgspec.json.encode(figures))
    return figures


def _row(
    widths: tuple[int, ...],
    version: str,
    row: dict[str, Any],
    base: dict[str, Any],
    paper: dict[str, tuple[float, float]],
) -> list[str]:
    seconds, size = paper.get(version, (None, None))
    return [
        "-".join(map(str, widths)),
        version,
        "" if seconds is None else f"{seconds:.2f}",
        "" if seconds is None else f"{seconds / paper['base'][0]:.2f}x",
        f"{row['step_ms']:.1f}",
        f"{row['step_ms'] / base['step_ms']:.2f}x",
        "" if size is None else f"{size:.2f}",
        f"{row['parameters_mb']:.2f}",
    ]
