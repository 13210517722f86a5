"""What is said of a model's abilities is what its layers are; the page says the same of every model."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.abilities_table import PAGE, lines_of, rows_on_page
from export.cli.abilities import described
from export.compress.recipes import PARTS
from export.stages.abilities import Abilities, Ability, abilities_of, embeddings_of, int8_of, pruning_of
from models import MODELS


@pytest.mark.parametrize(
    ("name", "part", "answer", "why"),
    [
        ("deep_fwfm", "field_matrix", "yes", ""),
        ("deep_fwfm", "neurons", "yes", ""),
        ("lr", "dnn", "no", "it has no perceptron"),
        ("apg_dnn", "neurons", "no", "the hidden layers of its perceptron are AdaptiveLinear"),
        ("din", "neurons", "no", "the activations of its perceptron, Dice, have parameters"),
        ("din", "dnn", "zeros", "dead neurons of 'mlp' stay masked"),
        ("mmoe", "embedding", "in part", "zero embedding rows of 'domain' stay masked"),
        ("gbdt_lr", "embedding", "zeros", "'linear.embedding' is not a table over fields of the model"),
    ],
)
def test_what_pruning_takes_and_why_not(name: str, part: str, answer: str, why: str) -> None:
    found, _ = pruning_of(name)
    assert tuple(found) == PARTS
    assert found[part].answer == answer
    assert why in " ".join(found[part].why)


def test_a_model_that_ignores_how_embeddings_are_stored_says_so() -> None:
    assert [each.answer for each in embeddings_of("fm").values()] == ["yes", "yes", "yes"]
    assert [each.answer for each in embeddings_of("gbdt_lr").values()] == ["zeros", "no", "no"]


SAMPLE = ("lr", "deep_fwfm", "gbdt_lr", "dcn_v2", "fibinet", "apg_dnn", "din", "mmoe")


@pytest.mark.parametrize(
    "names",
    [pytest.param(SAMPLE, id="sample"), pytest.param(tuple(MODELS), id="all", marks=pytest.mark.slow)],
)
def test_the_page_says_of_every_model_what_is_found(names: tuple[str, ...]) -> None:
    rows = rows_on_page(PAGE.read_text(encoding="utf-8"))
    assert list(rows) == ["", *MODELS], "run python -m docs.abilities_table"
    found = {name: lines_of(name) for name in names}
    assert rows[""] == found["lr"][0]
    wrong = [name for name, (_, row) in found.items() if rows[name] != row]
    assert not wrong, f"run python -m docs.abilities_table {' '.join(wrong)}"


def test_experts_are_int8_but_for_what_is_small() -> None:
    found = int8_of("mmoe")
    assert found["tables"] == Ability("100%")
    assert found["layers"].answer == "100%"
    assert all("weights for each input and output" in why for why in found["layers"].why)


def test_one_row_of_the_page_is_written_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import docs.abilities_table as table

    found = Abilities("fm", {"embedding": Ability("no", ("it | is so",))}, "", {"qr": Ability("yes")}, {})
    monkeypatch.setattr(table, "abilities_of", lambda name, with_int8: found)
    page = tmp_path / "abilities.md"
    text = PAGE.read_text(encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(table, "PAGE", page)
    table.main(["fm"])
    rows, before = rows_on_page(page.read_text(encoding="utf-8")), rows_on_page(text)
    assert rows["fm"] == "| `fm` | no | qr | embedding: it   is so |"
    assert rows["lr"] == before["lr"]
    assert list(rows) == list(before)


def test_a_description_has_a_line_for_each_reason() -> None:
    found = abilities_of("gbdt_lr")
    told = described(found).splitlines()
    assert any(line.split()[:3] == ["prune", "dnn", "no:"] for line in told)
    assert any(line.split()[:3] == ["INT8", "tables", "no:"] for line in told)
