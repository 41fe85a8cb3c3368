"""On a machine with an NVIDIA GPU: torch-cuda passes the shipped package's golden cases and agrees with the CPU."""

from __future__ import annotations

import pytest
import torch

from models.engines import Place, choose_engine
from models.package import Package

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_torch_cuda_passes_the_golden_cases_and_agrees_with_the_reference(shipped: Package) -> None:
    on_gpu = choose_engine(shipped, ["torch-cuda"]).engine
    reference = choose_engine(shipped, ["torch"], Place("cpu")).engine
    batch = torch.rand((1, 1, *shipped.manifest.inference.roi), generator=torch.Generator().manual_seed(1914))
    expected = reference.run(batch)
    answer = on_gpu.run(batch.to(on_gpu.device)).cpu()
    limit = shipped.manifest.parity.of(on_gpu.precision).max_abs_of_range
    assert (answer - expected).abs().max() < limit * (expected.max() - expected.min())
