"""The worker: one Celery task that drains the due jobs, and a timer that does the same when no bell comes.

Each job is claimed by a row with a lease and a fencing token; its run happens in the engine process, which is killed
on the package's time limit. What is written under an old token is thrown away.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import Celery
from celery.worker import state

from appliance import __version__
from appliance.catalogue import Catalogue, comparisons, jobs, packages
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import Claim, Fenced, NewResult
from appliance.errors import CurieError, PackageRefused, ResultRejected, StudyBlocked, StudyUnsuitable
from appliance.job import ObjectReference, Prior, ResultContext
from appliance.log import logger
from appliance.settings import Settings
from appliance.volume import Volume
from dicom_nodes.spool import write_durably
from models.package import Package
from models.registry import open_registry
from workers.comparing import compare_versions
from workers.engine_process import EngineProcess, Wanted
from workers.pipeline import Inferred, Made, computed_by, read_study
from workers.pulse import Pulse, Stopping
from workers.result_set import ALWAYS, MadeObject, report_of_failure

TIMER_S = 5.0
RETRY_S = 5.0


class Worker:
    """Claims jobs and runs them, one at a time."""

    def __init__(self, settings: Settings, catalogue: Catalogue, name: str) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.name = f"{socket.gethostname()}/{name}"
        self.registry = open_registry(settings, catalogue)
        place = own_folder(settings.data_dir / "run")
        self.engine = EngineProcess(settings.worker, place, settings.data_dir / "engines")
        self.stopping = threading.Event()
        self._busy = threading.Lock()
        self._drained_at = time.monotonic()

    def warm(self) -> None:
        """Load the packages of the routes that are not loaded yet, so that the first study does not wait for it."""
        scratch = self.settings.data_dir / "run"
        scratch.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(scratch)  # /tmp may be memory, and large results lie there until they are kept
        for name in sorted({route.package for route in self.settings.routes}):
            try:
                package = self.registry.routed(name)
                if not self.engine.knows(package.digest):
                    self.engine.warm(self._wanted(package))
            except CurieError as error:
                logger().error("package_not_loaded", package=name, cause=str(error))

    def drain(self) -> int:
        """Run every due job; returns how many. A second caller returns at once while one drains."""
        if not self._busy.acquire(blocking=False):
            return 0
        try:
            done = 0
            while not self.stopping.is_set() and self._run_one():
                done += 1
            self._drained_at = time.monotonic()
            self._keep_reports(self.engine.loaded())
            self.warm()  # what was promoted meanwhile
            return done
        finally:
            self._busy.release()

    def timer(self) -> None:
        """Drain whenever no bell came for 5 s; ends with the worker."""
        while not self.stopping.wait(0.5):
            if time.monotonic() - self._drained_at >= TIMER_S:
                self.drain_safely()

    def drain_safely(self) -> None:
        """Drain; what breaks is logged by its kind alone, and tried again when the timer or a bell asks."""
        try:
            self.drain()
        except Exception as error:  # noqa: BLE001 - the edge of timer and bell: the catalogue may be away for a while
            logger().error("drain_failed", cause=type(error).__name__)
            self._drained_at = time.monotonic()

    def stop(self) -> None:
        """Stop after putting the running job back."""
        self.stopping.set()

    # --- one job ---

    def _run_one(self) -> bool:
        with self.catalogue.read() as connection:
            if not jobs.due_count(connection, now()):
                return False
        with self.catalogue.write() as connection:
            held = jobs.claim(connection, self.name, now())
        if held is None:
            return False
        logger().info("job_started", job=held.id, token=held.token)
        try:
            self._run(held)
        except Fenced:
            logger().warning("job_fenced", job=held.id, token=held.token)
        return True

    def _run(self, held: Claim) -> None:
        try:
            if held.tells:
                self._tell(held)
            else:
                pulse = Pulse(self.catalogue, held, self.stopping)
                with pulse:
                    made = self.made(held, pulse.check)
                self._commit(held, made)
        except Fenced:
            raise
        except StudyUnsuitable as reason:
            self._finish(held, "unsuitable", str(reason))
        except (StudyBlocked, ResultRejected, PackageRefused) as reason:
            self._finish(held, "failed", str(reason))
        except Stopping as reason:
            self._put_back(held, str(reason), counts=False)
        except Exception as error:  # noqa: BLE001 - the edge of a job: whatever breaks, the job is put back
            cause = str(error) if isinstance(error, CurieError) else f"{type(error).__name__} at {where(error)}"
            self._put_back(held, cause, counts=True)

    def made(self, held: Claim, check: Callable[[], None]) -> Made:
        """Run a claimed job; `check` raises when the run is to end."""
        package = self.registry.of_digest(held.package_digest)
        inputs = self._inputs(held)
        with self.catalogue.read() as connection:
            replaced = jobs.replaced_by(connection, held)
            patient_key = jobs.patient_of(connection, held.id)
            priors = jobs.priors_of(connection, held, patient_key)
        roles = self._wanted_roles(held)
        wanted = replace(self._wanted(package), mapped="PMAP" in roles)

        def infer(sequence: Sequence[Sequence[Volume]]) -> Inferred:
            return self.engine.read(sequence, wanted, check)

        context = self._context(held, package, replaced, priors, patient_key)
        return read_study(inputs, package, infer, lambda ran: computed_by(context, ran), roles)

    def _tell(self, held: Claim) -> None:
        """Write and commit the report that no result could be made."""
        with self.catalogue.read() as connection:
            instances = jobs.inputs_by_series(connection, held.id)
            patient_key = jobs.patient_of(connection, held.id)
            replaced = jobs.replaced_by(connection, held)
        (path, *_), *_ = self._inputs(held)
        context = self._context(held, self._package_of(held), replaced, (), patient_key)
        told = report_of_failure(held.tells, path, instances, context)
        record = {"patient_key": patient_key}
        with self.catalogue.write() as connection:
            jobs.commit_results(connection, held, [self._keep(held, told)], self._accepted(), record, now())
        logger().info("failure_reported", job=held.id)

    def _package_of(self, held: Claim) -> Package | None:
        """Return the package that was to run, None where it cannot be read: that may be what is to be told."""
        try:
            return self.registry.of_digest(held.package_digest) if held.package_digest else None
        except CurieError:
            return None

    def _accepted(self) -> dict[str, tuple[str, ...]]:
        """Return destination → roles it takes."""
        return {one.name: one.results for one in self.settings.destinations}

    def _inputs(self, held: Claim) -> list[list[Path]]:
        """Return the files of each input's series."""
        with self.catalogue.read() as connection:
            by_series = jobs.input_paths(connection, held.id)
        series = [uid for _, uid in held.inputs] or [held.series_instance_uid]
        inputs = [[self.settings.spool_dir / path for path in by_series[uid]] for uid in series]
        paths = [path for several in inputs for path in several]
        gone = sum(not path.exists() for path in paths)
        if gone:
            raise StudyBlocked(f"{gone} of {len(paths)} images are no longer in the spool; have the study sent again")
        return inputs

    def _wanted(self, package: Package) -> Wanted:
        """Return the package with its locator, and the memory it was measured to need on this host."""
        locator = self.registry.locator(package)
        with self.catalogue.read() as connection:
            known = packages.engine_reports(connection, package.digest)
        need = next((one["memory_mb"] for one in known if one["host"] == socket.gethostname()), None)
        return Wanted(package, locator, need)

    def _keep_reports(self, loaded: Sequence[dict[str, Any]]) -> None:
        """Record what packages run on here, and why not on a higher rung."""
        for one in loaded:
            if "error" in one:
                logger().error("package_not_loaded", digest=one["digest"], cause=one["message"])
                continue
            self._keep_report(one["digest"], one)

    def _keep_report(self, digest: str, ran: dict[str, Any]) -> None:
        names = ("engine", "precision", "skipped", "parity", "memory_mb")
        report = {"host": socket.gethostname(), "device": self.settings.worker.device, "package_digest": digest}
        with self.catalogue.write() as connection:
            packages.keep_engine_report(connection, report | {name: ran[name] for name in names}, now())

    def _context(
        self,
        held: Claim,
        package: Package | None,
        replaced: Sequence[ObjectReference],
        priors: Sequence[Prior],
        patient_key: str,
    ) -> ResultContext:
        """Return what is known of the results before anything is computed."""
        known = ResultContext(
            appliance_name=self.settings.appliance.name,
            appliance_uid=self.settings.appliance_uid,
            software_version=__version__,
            job_id=held.id,
            package=held.package,
            package_version=held.package_version,
            package_digest=held.package_digest,
            title=held.package,
            engine="",
            precision="",
            made_at=held.created_at,
            supersedes=tuple(replaced),
            patient_key=patient_key,
            priors=tuple(priors),
        )
        return said_by(package, known) if package else known

    def _wanted_roles(self, held: Claim) -> frozenset[str]:
        """Return the roles that a destination of the job takes, and those that are always made."""
        with self.catalogue.read() as connection:
            asked = jobs.destinations_of(connection, held.id)
        taken = [one.results for one in self.settings.destinations if one.name in asked]
        return ALWAYS.union(*taken)

    def _commit(self, held: Claim, made: Made) -> None:
        results = [self._keep(held, one) for one in made.objects]
        record = {
            "engine": f"{made.inferred.engine} {made.inferred.precision}",
            "skipped": [list(one) for one in made.inferred.skipped],
            "timings": {**made.timings, "inference_cpu_s": made.inferred.cpu_s},
            "findings": [finding_record(one) for one in made.findings],
            "patient_key": made.context.patient_key,
            "study_date": made.study_date,
        }
        with self.catalogue.write() as connection:
            jobs.commit_results(connection, held, results, self._accepted(), record, now())
        logger().info("results_written", job=held.id, **made.timings)
        self._compare(held.id)
        self._keep_report(held.package_digest, vars(made.inferred))

    def compare_left(self) -> None:
        """Compare the answers that a worker which died had no time to compare."""
        with self.catalogue.read() as connection:
            left = comparisons.left(connection)
        for job in left:
            self._compare(job)

    def _compare(self, job: str) -> None:
        """Compare with other versions; what goes wrong here never touches the job, which is done."""
        try:
            compare_versions(self.catalogue, self.settings.results_dir, job)
        except Exception as error:  # noqa: BLE001 - the edge of a comparison
            logger().error("versions_not_compared", job=job, cause=type(error).__name__)

    def _keep(self, held: Claim, made: MadeObject) -> NewResult:
        path = f"{held.id[:2]}/{held.id}/{made.name}-{held.token}.dcm"
        write_durably(self.settings.results_dir / path, made.content)
        digest = hashlib.sha256(made.content).hexdigest()
        return NewResult(
            made.at.sop_instance_uid,
            made.at.sop_class_uid,
            made.at.series_instance_uid,
            made.role,
            path,
            digest,
            len(made.content),
            made.variant,
        )

    def _finish(self, held: Claim, state: str, reason: str) -> None:
        with self.catalogue.write() as connection:
            jobs.finish(connection, held, state, reason, now())
        logger().warning(f"job_{state}", job=held.id, reason=reason)

    def _put_back(self, held: Claim, cause: str, *, counts: bool) -> None:
        due_at = now() + timedelta(seconds=RETRY_S if counts else 0)
        with self.catalogue.write() as connection:
            state = jobs.put_back(connection, held, cause, due_at, counts=counts)
        logger().warning("job_put_back", job=held.id, cause=cause, state=state)


def said_by(package: Package, known: ResultContext) -> ResultContext:
    """Return the context with what the package says of itself."""
    declared = package.manifest
    return replace(
        known,
        title=declared.title,
        not_for_clinical_use=declared.not_for_clinical_use,
        limits=declared.limits,
        weights_digest=package.weights_digest,
        training_round="" if declared.lineage.round is None else str(declared.lineage.round),
    )


def own_folder(run: Path) -> Path:
    """Return a folder of this process alone, and remove those of processes of this host that are gone."""
    host = socket.gethostname()
    for left in run.glob(f"{host}.*.*"):
        of_this_host = left.name.rsplit(".", 2)[0] == host  # others may begin with its name and a dot
        if of_this_host and not Path(f"/proc/{left.suffix[1:]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return run / f"{host}.{uuid.uuid4().hex}.{os.getpid()}"


def where(error: BaseException) -> str:
    """Return file and line of the innermost frame: enough to find a fault, and nothing of the patient."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"


def finding_record(finding: Any) -> dict[str, Any]:
    """Return a finding as the catalogue keeps it."""
    return {
        "name": finding.name,
        "segment": finding.segment_number,
        "code": asdict(finding.code),
        "tracking_uid": finding.tracking_uid,
        "present": finding.present,
        "probability": finding.probability,
        "measurements": [
            {
                "name": m.name.meaning,
                "code": m.name.value,
                "scheme": m.name.scheme,
                "value": round(m.value, 4),
                "unit": m.unit.value,
            }
            for m in finding.measurements
        ],
    }


def run_worker(app: Celery, worker: Worker) -> None:
    """Run Celery's worker (solo pool) in this process until SIGTERM; drain on each bell and on the timer."""

    @app.task(name="curie.drain")  # type: ignore[untyped-decorator]  # Celery has no types
    def drain() -> None:
        worker.drain_safely()

    worker.warm()  # before another thread may speak to the engine process
    worker.compare_left()
    threading.Thread(target=worker.timer, daemon=True).start()
    command = app.Worker(pool="solo", concurrency=1, quiet=True, loglevel="ERROR", without_gossip=True,
                         without_mingle=True, without_heartbeat=True)  # fmt: skip
    command.install_platform_tweaks = lambda _: None  # Celery would put its own signal handlers over ours
    stop = _stop_both(worker)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        command.start()
    finally:
        worker.stop()
        worker.engine.kill()


def _stop_both(worker: Worker) -> Any:
    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        worker.stop()
        state.should_stop = 0  # the exit code with which Celery's loop ends
        last_resort = threading.Timer(8.0, os._exit, args=(0,))  # Celery waits for a broker that is away
        last_resort.daemon = True
        last_resort.start()

    return stop
