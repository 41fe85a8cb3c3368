"""The bodies of `curie run PROCESS`: each opens its own catalogue and runs until SIGTERM."""

from __future__ import annotations

import os
from collections.abc import Callable

from appliance.process import keep_stepping, running
from appliance.settings import Settings


def run_receiver(settings: Settings, number: int) -> None:  # noqa: ARG001
    """Receive until told to stop."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads start with the import; the parent forks
    from appliance.cli import explain
    from dicom_nodes.receiver import run_receiver as run

    code = run(settings, explain)
    if code:
        raise SystemExit(code)


def run_dispatch(settings: Settings, number: int) -> None:  # noqa: ARG001
    """Complete, route, ring, perform worklists and look at what comes back until told to stop."""
    from appliance.watch import Watch
    from workers import alerting, audit_syslog, corrections, performing, tracing
    from workers.auditing import on_record
    from workers.celery_app import broker_url, make_app
    from workers.dispatch import POLL_S, Dispatch

    watch = Watch(settings)
    with running("dispatch", settings, watch.told) as process:
        dispatch = Dispatch(settings, process.catalogue, make_app(broker_url(settings)))
        performing.start(settings, process.catalogue, process.stop)
        corrections.start(settings, process.catalogue, process.stop)
        alerting.start(settings, process.catalogue, process.stop, watch)
        audit_syslog.start(settings, process.catalogue, process.stop)
        tracing.start(settings, process.catalogue, process.stop)
        with on_record(process.catalogue):
            keep_stepping(dispatch.step, process.stop, POLL_S)


def run_delivery(settings: Settings, number: int) -> None:  # noqa: ARG001
    """Send and commit results until told to stop."""
    from workers.delivery import Delivery

    with running("delivery", settings) as process:
        Delivery(settings, process.catalogue).run(process.stop)


def run_console(settings: Settings, number: int) -> None:  # noqa: ARG001
    """Serve the console until told to stop."""
    from appliance.console.server import run

    run(settings)


def run_worker(settings: Settings, number: int) -> None:
    """Run jobs until told to stop."""
    from appliance.this_host import GpuWatch
    from workers import tasks
    from workers.celery_app import broker_url, make_app

    name = f"worker-{number}"
    with running(name, settings, GpuWatch().told) as process:
        worker = tasks.Worker(settings, process.catalogue, name)
        tasks.run_worker(make_app(broker_url(settings)), worker)


def run_sidecar(settings: Settings, number: int) -> None:  # noqa: ARG001
    """Take part in federated rounds until told to stop."""
    from workers.sidecar.process import become

    become(settings)


def run_coordinator(settings: Settings, number: int) -> None:  # noqa: ARG001
    """Hold federated rounds until told to stop."""
    from workers.coordinator.process import run

    run(settings)


RUN: dict[str, Callable[[Settings, int], None]] = {
    "receiver": run_receiver,
    "dispatch": run_dispatch,
    "delivery": run_delivery,
    "console": run_console,
    "worker": run_worker,
    "sidecar": run_sidecar,
    "coordinator": run_coordinator,
}
