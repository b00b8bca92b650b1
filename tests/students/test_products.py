"""A product of hidden states and a weight is the same whichever library forms it."""

import pytest
import torch
from torch import nn

from distill_dagster.students import products


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def library(request, monkeypatch):
    if request.param and not products._HAS_ONEDNN:
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(products, "_ONEDNN", request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (0, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_torchs_own(shape, dtype):
    torch.manual_seed(2)
    hidden, weight, bias = (torch.randn(*size, dtype=dtype) for size in (shape, (6, 7), (7,)))

    for offset in (None, bias):
        found = products.linear(hidden, weight.t(), offset)
        torch.testing.assert_close(found, nn.functional.linear(hidden, weight.t(), offset))


@pytest.mark.parametrize(
    ("text", "suits"),
    [
        ("processor : 0\nvendor_id\t: GenuineIntel\n", True),
        ("processor : 0\nvendor_id\t: AuthenticAMD\n", False),
        ("processor : 0\nBogoMIPS : 50.00\n", True),
    ],
)
def test_mkl_is_for_its_own_makers_processors(tmp_path, text, suits):
    info = tmp_path / "cpuinfo"
    info.write_text(text, encoding="utf-8")
    assert products.mkl_suits(info) is suits
    assert products.mkl_suits(tmp_path / "absent")
