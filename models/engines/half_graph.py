"""An ONNX graph in halves: precision goes into the graph, for TensorRT decides nothing by itself any more.

It must never change what goes in or comes out: input and answer stay float32. onnxconverter-common (MIT) does the
conversion; operators that cannot take halves, and those the package names, are left in float32 between casts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version

import onnx

from appliance.errors import EngineUnavailable

LARGEST = 65504.0  # of a half
TOOL = "onnxconverter-common"


def recipe(keep_f32: Sequence[str]) -> str:
    """Return what a plan made of `in_halves` depends on, as it stands in the plan's key."""
    return f"f16 {TOOL} {version(TOOL)} keep {','.join(sorted(keep_f32))}"


def in_halves(graph: bytes, keep_f32: Sequence[str] = ()) -> bytes:
    """Return the graph with weights and arithmetic in float16, operators of the types `keep_f32` in float32.

    Raises EngineUnavailable for a graph that cannot be converted.
    """
    from onnxconverter_common import float16

    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *keep_f32]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a weight near zero is rounded; the parity gate judges the sum of it
            model = float16.convert_float_to_float16(
                onnx.load_model_from_string(graph),
                min_positive_val=0.0,
                max_finite_val=LARGEST,
                keep_io_types=True,
                op_block_list=blocked,
            )
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise EngineUnavailable(f"{TOOL} cannot bring the graph to f16 ({first})") from error
    return bytes(model.SerializeToString(deterministic=True))
