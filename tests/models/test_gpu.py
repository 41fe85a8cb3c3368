"""On a machine with an NVIDIA GPU: torch-cuda passes the shipped package's golden case and agrees with the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.engines import choose_engine
from models.registry import active_package

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_torch_cuda_passes_the_golden_case_and_agrees_with_the_reference(tmp_path: Path) -> None:
    package = active_package("brain-structures", tmp_path)
    on_gpu = choose_engine(package, ["torch-cuda"]).engine
    reference = choose_engine(package, ["torch"], "cpu").engine
    batch = np.random.default_rng(1914).random((1, 1, *package.manifest.inference.roi), dtype=np.float32)
    expected = reference.run(batch)
    assert np.abs(on_gpu.run(batch) - expected).max() < 2e-3 * np.ptp(expected)
