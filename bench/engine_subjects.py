"""Who computes a network on a CPU thread: PyTorch as MONAI runs it, OpenVINO in two precisions, ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.networks import made
from models.engines import Engine
from models.engines.torch import TorchEngine

MONAI, OPENVINO, BF16, ONNXRUNTIME = "torch eager f32", "openvino f32", "openvino bf16", "onnxruntime f32"
SUBJECTS = (MONAI, OPENVINO, BF16, ONNXRUNTIME)


def absent(subject: str) -> str:
    """Return why a subject cannot run on this host, "" if it can."""
    if subject != BF16:
        return ""
    from models.engines.openvino import has_bf16

    return "" if has_bf16() else "this CPU has no bf16 (AMX or AVX512_BF16)"


def engine_of(subject: str, network: str, folder: Path) -> Engine:
    """Return the engine of a subject on one thread; `folder` holds the network's graph."""
    torch.set_num_threads(1)
    if subject == MONAI:
        return TorchEngine(made(network), "torch", "cpu")
    graph = (folder / f"{network}.onnx").read_bytes()
    if subject == ONNXRUNTIME:
        from models.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(graph, threads=1)
    from models.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(graph, "bf16" if subject == BF16 else "f32", threads=1)
