"""Which field says the domain, and weights of a row's own domain against a loop over rows."""

from __future__ import annotations

import pytest
import torch

from models.domains import DomainLinear, domain_column, domain_field, domain_result_rows
from models.fields import Field
from tests.models.layouts import PLAIN, SEQUENCES, randomized


def test_the_domain_is_the_context_field_with_the_fewest_ids() -> None:
    assert domain_field(PLAIN, None).name == "hour"
    assert domain_field(SEQUENCES, None).name == "hour"  # tags, with fewer, is a sequence
    constant = Field("constant", 1)
    candidate = Field("size", 2, role="candidate")
    assert domain_field((constant, candidate, *PLAIN), None).name == "hour"
    assert domain_field((Field("first", 3), Field("second", 3)), None).name == "first"


def test_a_named_domain_may_be_any_field_of_one_id() -> None:
    field = domain_field(SEQUENCES, "hour")
    assert field is SEQUENCES[3]
    assert domain_column(SEQUENCES, field) == 6
    assert domain_field(PLAIN, "ad").role == "candidate"


@pytest.mark.parametrize(
    ("fields", "name", "message"),
    [
        (PLAIN, "page", "'domain' must be one of the fields site, hour, device, ad"),
        (SEQUENCES, "tags", "'domain' must be a field with one id"),
        ((Field("ad", 5, role="candidate"),), None, "no context field of width 1 has two ids"),
    ],
)
def test_an_invalid_domain_is_refused(fields: tuple[Field, ...], name: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        domain_field(fields, name)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_row_passes_the_map_of_its_domain(bias: bool, dtype: torch.dtype) -> None:
    layer = randomized(DomainLinear(4, in_features=3, out_features=2, bias=bias))
    inputs, domains = torch.randn(9, 3), torch.tensor([0, 3, 1, 1, 2, 0, 3, 3, 2], dtype=dtype)
    for row, domain, found in zip(
        inputs, domains.tolist(), layer(inputs, domain_result_rows(domains, 4)), strict=True
    ):
        outputs = slice(domain * 2, domain * 2 + 2)
        expected = layer.maps.weight[outputs] @ row
        torch.testing.assert_close(found, expected + layer.maps.bias[outputs] if bias else expected)


def test_a_row_teaches_its_own_domain_only() -> None:
    layer = DomainLinear(3, in_features=2, out_features=2)
    torch.autograd.backward(layer(torch.ones(4, 2), domain_result_rows(torch.full((4,), 1), 3)).sum())
    assert layer.maps.weight.grad is not None
    assert layer.maps.weight.grad.unflatten(0, (3, 2)).abs().sum(dim=(1, 2)).tolist() == [0, 16, 0]
