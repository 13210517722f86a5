"""What can be made smaller of a model, in words for the terminal and as a row of a table."""

from __future__ import annotations

from collections.abc import Mapping

from export.stages.abilities import Abilities, Ability


def described(abilities: Abilities) -> str:
    """A line for each part of a pruning, storage of embeddings and kind of INT8, with what stands against."""
    lines = _lines("prune", abilities.pruning)
    if abilities.unpruned:
        lines.append(f"  by no part          {abilities.unpruned}")
    lines += _lines("embedding", abilities.embeddings) + _lines("INT8", abilities.int8)
    return "what can be made smaller, tried on a few fields of every kind:\n" + "\n".join(lines)


def columns_of(abilities: Abilities) -> list[str]:
    """The heads of a table's columns."""
    parts = [f"prune {part}" for part in abilities.pruning]
    return ["model", *parts, "embeddings", *(f"INT8 {kind}" for kind in abilities.int8), "why not"]


def row_of(abilities: Abilities) -> list[str]:
    """A row of that table."""
    storages = [storage for storage, each in abilities.embeddings.items() if each.answer != "no"]
    return [
        abilities.model,
        *(each.answer for each in abilities.pruning.values()),
        ", ".join(storages),
        *(each.answer for each in abilities.int8.values()),
        "; ".join(_reasons(abilities)),
    ]


def _lines(what: str, found: Mapping[str, Ability]) -> list[str]:
    lines = []
    for name, each in found.items():
        first, *others = each.why or ("",)
        lines.append(f"  {f'{what} {name}':22}{each.answer}{': ' if first else ''}{first}")
        lines += [f"  {'':22}{other}" for other in others]
    return lines


def _reasons(abilities: Abilities) -> list[str]:
    """Each reason once, with what it stands against."""
    against: dict[str, list[str]] = {}
    for found in (abilities.pruning, abilities.embeddings, abilities.int8):
        for name, each in found.items():
            for why in each.why:
                against.setdefault(why, []).append(name)
    reasons = [f"{', '.join(names)}: {why}" for why, names in against.items()]
    return [*reasons, f"by no part: {abilities.unpruned}"] if abilities.unpruned else reasons
