"""The executor of a stock NVFLARE site: full weights in, trained by the function that our sites train with, full out.

The job names it; the site's policy allows it. It must never do more than a competent user's executor would.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from bench.wide_network import ARCHITECTURE, ROI, cases, declared
from models.declaration import Declaration
from models.local_pass import Case, Plan, case_of, put_into, trained, weights_of
from models.networks import build


def mark(what: str) -> None:
    """Note a moment in the file that CURIE_BENCH_MARKS names."""
    with open(os.environ["CURIE_BENCH_MARKS"], "a") as file:
        file.write(json.dumps({"what": what, "at": time.time()}) + "\n")


class StockSite(Executor):  # type: ignore[misc]
    """Trains on the made-up cases of its site."""

    def __init__(self, steps: int, batch: int, learning_rate: float, proximal: float) -> None:
        super().__init__()
        self.steps, self.batch, self.learning_rate, self.proximal = steps, batch, learning_rate, proximal
        self.cases: Sequence[Case] = ()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Read the cases when the job begins."""
        if event_type == EventType.START_RUN:
            how = Declaration.model_validate(declared())
            site = fl_ctx.get_identity_name()
            self.cases = [case_of(volume, labels, how, name) for name, volume, labels in cases(site)]
            self.network = build(*ARCHITECTURE)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:  # noqa: ARG002
        """Return the weights after one round's training."""
        mark("asked")
        model = FLModelUtils.from_shareable(shareable)
        put_into(self.network, model.params)
        plan = Plan(
            steps=self.steps, batch=self.batch, crop=ROI, learning_rate=self.learning_rate, proximal=self.proximal,
            seed=int(model.current_round or 0),
        )  # fmt: skip
        mark("begun")
        told = trained(self.network, self.cases, plan, "cpu")
        mark("trained")
        after = weights_of(self.network, sorted(self.network.state_dict()))
        answer = FLModel(
            params=after,
            params_type=ParamsType.FULL,
            metrics={"loss": told["loss"]},
            meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: self.steps},
        )
        return FLModelUtils.to_shareable(answer)
