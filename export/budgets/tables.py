"""A search for a budget as lines for a terminal; it judges nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from export.budgets.records import Form, Limits, Searched, Trial
from export.budgets.space import DIM, DRAWN, ENDINGS, ITSELF, LAYERS, STUDENT, WIDTH, ending_text
from export.compress.recipes import PARTS
from export.report.text_table import aligned
from export.trials import Values

LETTERS: Mapping[str, str] = {
    "dnn": "D",
    "field_matrix": "R",
    "embedding": "F",
    "neurons": "N",
    "interactions": "I",
    "dimensions": "K",
}


def recipe_text(values: Values) -> str:
    """Who is pruned, by what, as the paper writes it, and how it ends: `taught dnn width/4 D-99% float`."""
    words = []
    if (student := values.get(STUDENT, ITSELF)) != ITSELF:
        words.append(f"taught {student}")
    for name, shown in ((WIDTH, "width"), (DIM, "dim")):
        if halvings := int(values.get(name, 0)):
            words.append(f"{shown}/{2**halvings}")
    if LAYERS in values:
        words.append(f"{values[LAYERS]} layer{'s' if values[LAYERS] != 1 else ''}")
    words += [
        f"{LETTERS[part]}-{1.0 - float(values[part]):.1%}".replace(".0%", "%")
        for part in PARTS
        if float(values.get(part, 1.0)) < 1.0
    ]
    words += [
        ending_text(name, values[name])
        for name, (usual, *_) in ENDINGS.items()
        if values.get(name, usual) != usual
    ]
    return " ".join(words) or "nothing pruned"


def _titled(one: Trial) -> str:
    """The recipe after its name, unless that says nothing more."""
    recipe = recipe_text(one.values)
    return recipe if one.name == DRAWN or one.name in recipe.split() else f"{one.name}: {recipe}"


def cost_text(form: Form) -> str:
    return f"{form.microseconds:.2f} us, {form.bytes:,} bytes, {form.variant}"


def unseen_text(form: Form) -> str:
    """The change of AUC on rows that no trial has seen, with its interval."""
    low, high = form.unseen.auc_interval
    return f"{form.unseen.auc_delta:+.5f} ({low:+.5f} to {high:+.5f})"


def limits_text(limits: Limits, candidates: int) -> str:
    """`at most 5 us a candidate of 100`."""
    words = []
    if limits.microseconds is not None:
        words.append(f"{limits.microseconds:g} us a candidate of {candidates}")
    if limits.bytes is not None:
        words.append(f"{limits.bytes:,} bytes")
    if limits.auc_loss is not None:
        words.append(f"{limits.auc_loss:g} AUC lost")
    return "at most " + " and ".join(words)


def trial_line(one: Trial, best: Trial | None, limits: Limits, trials: int | None) -> str:
    """What a trial gave, and which is the best within the limits so far."""
    number = f"trial {one.number}" + (f"/{trials}" if trials else "")
    about = _titled(one)
    if one.form is None:
        return f"{number}: failed: {one.reason} ({about})"
    form = one.form
    figures = f"AUC {form.auc:.5f} ({form.validation.auc_delta:+.5f}), {cost_text(form)}"
    if best is not None and best.number == one.number:
        mark = ", the best so far"
    elif limits.hold(form):
        mark = ""
    else:
        mark = ", over the limit"
    return f"{number}: {figures}{mark}; {one.seconds:.1f} s: {about}"


HEAD = (
    "trial", "recipe", "AUC", "to dense", "on unseen rows", "us a candidate", "x dense", "bytes", "graph",
    "neurons",
)  # fmt: skip


def front_rows(found: Searched) -> list[list[str]]:
    """A row for each trial that no other beats, the fastest first."""
    chosen = [one for one in found.trials if one.number in found.front]
    forms = sorted(
        ((one, one.form) for one in chosen if one.form is not None), key=lambda pair: pair[1].microseconds
    )
    return [_row(one, form, found) for one, form in forms]


def _row(one: Trial, form: Form, found: Searched) -> list[str]:
    mark = " *" if one.number == found.best else ""
    return [
        f"{one.number}{mark}",
        _titled(one),
        f"{form.auc:.5f}",
        f"{form.validation.auc_delta:+.5f}",
        unseen_text(form),
        f"{form.microseconds:.2f}",
        f"{1.0 / form.share:.1f}",
        f"{form.bytes:,}",
        form.variant,
        "-".join(map(str, form.live_neurons)),
    ]


def front_table(found: Searched) -> list[str]:
    return aligned([list(HEAD), *front_rows(found)])


def verdict(found: Searched) -> str:
    """Which trial keeps the limits best, or which comes nearest to them."""
    wanted = limits_text(found.limits, found.candidates)
    if found.best is not None:
        one = found.trials[found.best - 1]
        assert one.form is not None
        return (
            f"{wanted}: trial {one.number} is best, AUC {one.form.auc:.5f}, {cost_text(one.form)}; to the "
            f"dense graph {one.form.validation.auc_delta:+.5f}, on rows that no trial has seen "
            f"{unseen_text(one.form)}"
        )
    one, form = nearest(found.trials, found.limits)
    return (
        f"{wanted}: none of {len(found.trials)} trials keeps that; trial {one.number} is nearest, "
        f"AUC {form.auc:.5f}, {cost_text(form)}"
    )


def nearest(trials: Sequence[Trial], limits: Limits) -> tuple[Trial, Form]:
    """The trial whose largest excess of a limit is least."""
    forms = [(one, one.form) for one in trials if one.form is not None]
    return min(forms, key=lambda pair: max(limits.excess(pair[1]).values()))
