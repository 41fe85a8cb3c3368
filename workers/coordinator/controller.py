"""The engine's controller: carries questions to the sites and answers back, for the rounds and for the new package.

Installed code that a job names and gives one word: the cycle. It must never take settings from a job.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from appliance.errors import RoundRefused
from appliance.log import logger, start_logging
from appliance.settings import Settings, load
from workers.asking import CONTENT, TAKE, TRAIN, reason_of
from workers.coordinator import kits
from workers.coordinator.lineage import CycleRecord, Lineage
from workers.coordinator.rounds import Answer, on_record, run_cycle

LOOK_S = 0.05
PUBLISH_S = 1800.0
TAKE_S = 300.0


class RoundController(Controller):  # type: ignore[misc]
    """Holds the rounds of one cycle that are still to come, then publishes and hands out the new package."""

    def __init__(self, package: str, cycle: str) -> None:
        super().__init__(task_check_period=LOOK_S)
        self.package, self.cycle = package, cycle

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing: settings are read when the rounds begin."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is held."""

    def process_result_of_unknown_task(self, client: Client, *_: Any) -> None:
        """An answer that comes after its round is over counts for nothing."""
        logger().info("late_answer", site=client.name)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Carry the cycle to its end."""
        start_logging("coordinator-rounds")
        settings = load()
        lineage = Lineage(settings.data_dir, self.package)
        with lineage.alone(self.cycle):
            cycle = lineage.cycle(self.cycle)
            if cycle.state == "running":
                self._carry_on(cycle, lineage, settings, EngineExchange(self, settings.data_dir, abort_signal, fl_ctx))

    def _carry_on(self, cycle: CycleRecord, lineage: Lineage, settings: Settings, exchange: EngineExchange) -> None:
        assert settings.coordinator is not None
        exchange.wait_for_sites(settings.coordinator.min_sites, settings.coordinator.gather_s)
        for last in [one for one in lineage.cycles() if one.state == "published"][-1:]:
            hand_out(last, lineage, exchange, settings.data_dir)  # to those that were away then
        try:
            with on_record(cycle, settings) as held:
                if not run_cycle(cycle, lineage, exchange, settings.coordinator, held=held):
                    return  # the coordinator starts another job for those that are left
        except RoundRefused as error:
            lineage.change(cycle, state="refused", why=str(error))
            logger().error("cycle_refused", cycle=cycle.id, cause=str(error))
            return
        publish(cycle)
        cycle = lineage.cycle(cycle.id)
        if cycle.state == "published":
            hand_out(cycle, lineage, exchange, settings.data_dir)


def hand_out(cycle: CycleRecord, lineage: Lineage, exchange: EngineExchange, data_dir: Path) -> None:
    """Send a cycle's package to the sites that do not have it, and write down who took it."""
    file = candidate_file(data_dir, cycle)
    lacking = [site for site in exchange.sites() if site not in cycle.took]
    if lacking and file.is_file():
        took = exchange.hand_out(file, lacking)
        lineage.change(cycle, took=tuple(sorted({*cycle.took, *took})))


def publish(cycle: CycleRecord) -> None:
    """Make the candidate package in a process of its own, which needs torch; its end is in the cycle's record."""
    command = [sys.executable, "-m", "workers.coordinator.publish", cycle.package, cycle.id]
    subprocess.run(command, check=False, timeout=PUBLISH_S, stdin=subprocess.DEVNULL)


def candidate_file(data_dir: Path, cycle: CycleRecord) -> Path:
    """Return the .zip of the package that a cycle led to."""
    folder = Lineage(data_dir, cycle.package).folder / "candidates"
    return folder / f"{cycle.package}-{cycle.candidate}.zip"


class EngineExchange:
    """An Exchange over the engine's tasks."""

    def __init__(self, controller: RoundController, data_dir: Path, abort: Signal, fl_ctx: FLContext) -> None:
        self.controller, self.data_dir, self.abort, self.fl_ctx = controller, data_dir, abort, fl_ctx
        self.server = os.getppid()

    def _check(self) -> None:
        """Raise Aborted when the engine ends this job, or its server is gone: another job goes on then."""
        if self.abort.triggered or os.getppid() != self.server:
            raise Aborted("the job is ended")

    def sites(self) -> list[str]:
        """Return the invited sites of this job."""
        here = {client.name for client in self.controller._engine.get_clients()}
        return sorted(here & set(kits.invited(self.data_dir)))

    def wait_for_sites(self, wanted: int, seconds: float) -> None:
        """Wait until so many sites are there."""
        deadline = time.monotonic() + seconds
        while len(self.sites()) < wanted and time.monotonic() < deadline:
            self._check()
            time.sleep(LOOK_S)

    def ask(self, request: bytes, sites: list[str], deadline: Callable[[], float]) -> Iterator[Answer]:
        """Yield answers as they come."""
        yield from self._ask(TRAIN, request, sites, deadline)

    def hand_out(self, file: Path, sites: list[str]) -> list[str]:
        """Send a package to sites; what they say is logged. Returns those that took it."""
        end, took = time.monotonic() + TAKE_S, []
        for answer in self._ask(TAKE, file.read_bytes(), sites, lambda: end):
            said = answer.trouble or answer.content.decode(errors="replace")[:200]
            logger().info("candidate_sent", site=answer.site, answer=said)
            if answer.content and reason_of(answer.content) is None:
                took.append(answer.site)
        return took

    def _ask(self, name: str, request: bytes, sites: list[str], deadline: Callable[[], float]) -> Iterator[Answer]:
        answers: queue.Queue[Answer] = queue.Queue()

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:  # noqa: ARG001
            answers.put(answer_of(client_task.client.name, client_task.result))
            client_task.result = None

        task = Task(name=name, data=Shareable({CONTENT: request}), timeout=0, result_received_cb=received)
        self.controller.broadcast(task, self.fl_ctx, targets=sites, min_responses=0)
        missing = set(sites)
        try:
            while missing and time.monotonic() < deadline():
                self._check()
                try:
                    answer = answers.get(timeout=LOOK_S)
                except queue.Empty:
                    continue
                missing.discard(answer.site)
                yield answer
        finally:
            self.controller.cancel_task(task)


class Aborted(Exception):
    """The engine ends this job; whoever started it starts another."""


def answer_of(site: str, result: Any) -> Answer:
    """Return what a site's reply holds."""
    code = result.get_return_code() if isinstance(result, Shareable) else "no reply"
    if code != ReturnCode.OK:
        return Answer(site, b"", f"its engine says {code}")
    content = result.get(CONTENT)
    if not isinstance(content, bytes):
        return Answer(site, b"", "its reply holds no bytes of ours")
    return Answer(site, content)
