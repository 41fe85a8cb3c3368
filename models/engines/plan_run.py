"""Running a plan on torch's memory: addresses of tensors in, answers out, each batch size captured once.

It must never hold two scratch areas: one piece of torch's memory serves the contexts of all batch sizes, which run one
after the other on one stream. TensorRT is captured with torch.cuda.graph, TensorRT-RTX captures by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from appliance.errors import EngineUnavailable
from models.engines import OutOfMemory, first_line
from models.engines.provider import Provider

WARM_UP = 2  # runs before a batch size is captured


class Staged:
    """Two pinned buffers of one shape: the host fills one while the device still reads the other."""

    def __init__(self, shape: torch.Size) -> None:
        one, other = ((torch.empty(shape, pin_memory=True), torch.cuda.Event()) for _ in range(2))  # type: ignore[no-untyped-call]
        self._buffers = cycle((one, other))

    def send(self, batch: Tensor, to: Tensor) -> None:
        """Copy a batch from the host to `to` on the current stream, without waiting for what runs there."""
        pinned, read = next(self._buffers)
        read.synchronize()  # the copy before the last has left the buffer
        pinned.copy_(batch)
        to.copy_(pinned, non_blocking=True)
        read.record()


@dataclass
class Prepared:
    """One batch size made ready: fixed addresses, a context, a graph where the provider does not capture by itself."""

    given: Tensor
    answer: Tensor
    context: Any
    staged: Staged | None = None  # once a batch comes from the host
    graph: torch.cuda.CUDAGraph | None = None


class PlanEngine:
    """A plan on a GPU."""

    def __init__(
        self, supplier: Provider, plan: bytes, precision: str, device: torch.device, kernels: bytes = b""
    ) -> None:
        self.name = supplier.rung
        self.precision = precision
        self.device = device
        self._supplier = supplier
        supplier.logger.heard.clear()
        with torch.cuda.device(device):
            runtime = supplier.api.Runtime(supplier.logger)
            self._plan = runtime.deserialize_cuda_engine(plan)
            if self._plan is None:
                raise supplier.fault("cannot load a plan")
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._image, self._answer = (self._plan.get_tensor_name(n) for n in range(2))
        self.largest = int(self._plan.get_tensor_profile_shape(self._image, 0)[2][0])
        self._settings, self._kernels = self._configured(kernels)
        self._scratch: Tensor | None = None
        self._prepared: dict[torch.Size, Prepared] = {}

    @property
    def refittable(self) -> bool:
        """Whether the plan takes other weights."""
        return bool(self._plan.refittable)

    @torch.inference_mode()
    def run(self, batch: Tensor) -> Tensor:
        """Return answers (n, channels, axes…) on the GPU of windows (n, channels, axes…), on the GPU or the host."""
        try:
            with torch.cuda.device(self.device):
                answers = [self._answered(part.float()) for part in torch.split(batch, self.largest)]
            return torch.cat(answers) if len(answers) > 1 else answers[0]
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(f"{self.name}: {first_line(error)}") from error
        except RuntimeError as error:
            kind = OutOfMemory if re.search(r"out of memory|alloc", str(error)) else EngineUnavailable
            raise kind(f"{self.name} cannot run the graph ({first_line(error)})") from error

    def _answered(self, batch: Tensor) -> Tensor:
        """Run one batch on our stream, between what was queued on the caller's before and what comes after."""
        callers = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(callers)
        with torch.cuda.stream(self._stream):
            ready = self._prepared.get(batch.shape) or self._prepare(batch.shape)
            if batch.is_cuda:
                ready.given.copy_(batch)
            else:
                ready.staged = ready.staged or Staged(batch.shape)
                ready.staged.send(batch, ready.given)
            self._launch(ready)
            answer = ready.answer.clone()
        callers.wait_stream(self._stream)
        answer.record_stream(callers)
        return answer

    def _launch(self, ready: Prepared) -> None:
        if ready.graph is not None:
            ready.graph.replay()
        elif not ready.context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise self._supplier.fault("cannot run the graph")

    def _prepare(self, shape: torch.Size) -> Prepared:
        context = self._context()
        if not context.set_input_shape(self._image, tuple(shape)):
            raise self._supplier.fault(f"cannot run the graph on shape {tuple(shape)}")
        given = torch.zeros(shape, device=self.device)
        answer = torch.empty(tuple(context.get_tensor_shape(self._answer)), device=self.device)
        for name, tensor in ((self._image, given), (self._answer, answer)):
            context.set_tensor_address(name, tensor.data_ptr())
        ready = Prepared(given, answer, context)
        for _ in range(WARM_UP):
            self._launch(ready)
        if not self._supplier.is_rtx:
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                self._launch(ready)
            ready.graph = graph
        self._prepared[shape] = ready
        return ready

    def _context(self) -> Any:
        """Return a context on the one scratch area."""
        context = self._plan.create_execution_context(self._settings)
        if context is None:
            raise self._supplier.fault("cannot run the graph")
        if self._scratch is None:
            size = max(1, int(self._plan.device_memory_size_v2))
            self._scratch = torch.empty(size, dtype=torch.uint8, device=self.device)
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        return context

    def _configured(self, kernels: bytes) -> tuple[Any, Any]:
        """Return how contexts are made, and TensorRT-RTX's cache of compiled kernels."""
        ours = self._supplier.api.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._supplier.is_rtx:
            return ours, None
        settings = self._plan.create_runtime_config()
        settings.set_execution_context_allocation_strategy(ours)
        settings.cuda_graph_strategy = self._supplier.api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = settings.create_runtime_cache()
        if kernels:
            cache.deserialize(kernels)  # it checks version and GPU by itself, and stays empty if they differ
        settings.set_runtime_cache(cache)
        return settings, cache

    def kernels(self) -> bytes:
        """Return TensorRT-RTX's compiled kernels for the next start, nothing for TensorRT."""
        return bytes(self._kernels.serialize()) if self._kernels is not None else b""

    def refit(self, graph: bytes) -> None:
        """Give the plan the weights of `graph`, whose structure is the plan's; raises EngineUnavailable.

        After a failure the engine holds a mixture and must be closed.
        """
        api, heard = self._supplier.api, self._supplier.logger
        heard.heard.clear()
        self._prepared.clear()  # captured graphs hold the weights of before
        refitter = api.Refitter(self._plan, heard)
        if not api.OnnxParserRefitter(refitter, heard).refit_from_bytes(graph):
            raise self._supplier.fault("cannot refit the plan")
        if missing := refitter.get_missing_weights():
            raise EngineUnavailable(f"{self.name} misses weights to refit the plan ({missing[0]})")
        if not refitter.refit_cuda_engine():
            raise self._supplier.fault("cannot refit the plan")

    def serialized(self) -> bytes:
        """Return the plan as it is now, still refittable."""
        settings = self._plan.create_serialization_config()
        settings.set_flag(self._supplier.api.SerializationFlag.INCLUDE_REFIT)
        return bytes(self._plan.serialize_with_config(settings))

    def close(self) -> None:
        """Give contexts, graphs and memory back."""
        if torch.cuda.is_available():
            torch.cuda.synchronize(self.device)
        self._prepared.clear()
        self._scratch = None
        self._settings = self._kernels = self._plan = None
        torch.cuda.empty_cache()
