"""Candidates that came from the coordinator, on their way at this site: tried, watched in shadow, promoted, taken back.

Runs in the sidecar, free of torch: what loads a package does so in `trial_run`, which gives way to clinical work.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row

from appliance.catalogue import Catalogue, comparisons, overview, packages, trials
from appliance.catalogue.adoption import withdraw_version
from appliance.catalogue.connection import now
from appliance.catalogue.promotions import decide
from appliance.errors import CurieError
from appliance.federation_settings import Federation
from appliance.log import logger
from appliance.package_life import VersionRow
from appliance.settings import Settings
from appliance.trial import ALL, Reads, Shadowed, TrialPolicy, after_shadow, reason_to_fall_back
from models.comparison import summary
from workers.sidecar.places import Places
from workers.sidecar.yielding import Yielding

TRIER = (sys.executable, "-m", "workers.sidecar.trial_run")
LONGEST_S = 4 * 3600.0
POLICY = "policy of this site"  # stands where a person's name would


def policy_of(own: Federation) -> TrialPolicy:
    """Return what the settings want to see."""
    return TrialPolicy(
        shadow_studies=own.shadow_studies, shadow_days=own.shadow_days, auto_promote=own.auto_promote,
        correction_limit=own.correction_limit, drift_limit=own.drift_limit,
    )  # fmt: skip


class Trials:
    """All candidates of one site."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        assert settings.federation is not None
        self.settings, self.catalogue = settings, catalogue
        self.policy = policy_of(settings.federation)
        self.places = Places(settings.data_dir)

    def step(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Try what arrived; see how far the others are."""
        for file in sorted(self.places.arrived.glob("*.zip")):
            if not give_up():
                self._try(file, give_up)
        with self.catalogue.read() as connection:
            rows = trials.in_states(connection, (*trials.OPEN, "promoted"))
        for row in rows:
            try:
                self._follow(row)
            except CurieError as error:
                logger().warning("trial_not_followed", package=row.package, version=row.version, cause=str(error))

    def _try(self, file: Path, give_up: Callable[[], bool]) -> None:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        with self.catalogue.read() as connection:
            known = trials.known(connection, sha256)
        outcome = None if known else self._outcome(file, give_up)
        if outcome is None and not known:
            return  # it is tried again
        if outcome is not None:
            with self.catalogue.write() as connection:
                trials.keep(connection, outcome | {"sha256": sha256}, now())
                self._retire_older(connection, outcome)
        file.unlink()

    def _outcome(self, file: Path, give_up: Callable[[], bool]) -> dict[str, Any] | None:
        """Return what came of a .zip; None where that was not to be found out."""
        folder = self.places.root / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        shutil.copyfile(file, folder / "package.zip")
        trier = Yielding(TRIER, lambda: self._clinical() > 0, LONGEST_S)
        try:
            done = trier.do(folder, give_up)
        finally:
            trier.end()
        if not done:
            logger().warning("candidate_not_tried", file=file.name)
            return None
        found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
        shutil.rmtree(folder, ignore_errors=True)
        return {"package": "", "version": "", "scores": []} | found

    def _clinical(self) -> int:
        with self.catalogue.read() as connection:
            return overview.clinical_jobs(connection)

    def _retire_older(self, connection: Connection, outcome: dict[str, Any]) -> None:
        """End the trials of older candidates: a newer one takes their place in shadow."""
        if outcome["state"] != "shadow":
            return
        for row in trials.of_package(connection, outcome["package"]):
            version = packages.version(connection, row.package, row.version)
            if row.version != outcome["version"] and row.state in ("shadow", "ready") and version is not None:
                self._end(connection, row, version, f"{outcome['version']} came")

    def _follow(self, row: Row[Any]) -> None:
        """Bring one trial on, in one transaction."""
        with self.catalogue.write() as connection:
            version = packages.version(connection, row.package, row.version)
            if version is None:
                return
            if version.state == "active":
                self._watch(connection, row, version)
            elif version.state == "retired":
                reason = "another version took its place" if row.state == "promoted" else "somebody retired it"
                trials.change(connection, row, "retired", reason, now())
            elif version.state == "shadow":
                self._look_at_shadow(connection, row, version)

    def _look_at_shadow(self, connection: Connection, row: Row[Any], version: VersionRow) -> None:
        held = packages.active(connection, row.package)
        if held is None:
            return
        step = after_shadow(shadowed(connection, held, version, row.scores), self.policy, now())
        if step.kind == "retire":
            self._end(connection, row, version, step.reason)
        elif step.kind == "promote" and not self.settings.models.two_person_promotion:
            decide(connection, "promote", version, POLICY, step.reason, now(), two_persons=False)
            trials.change(connection, row, "promoted", step.reason, now())
        else:
            state = "shadow" if step.kind == "wait" else "ready"
            trials.change(connection, row, state, step.reason, now())

    def _end(self, connection: Connection, row: Row[Any], version: VersionRow, reason: str) -> None:
        packages.set_state(connection, version, "retired", now(), reason=reason)
        withdraw_version(connection, version, now())
        trials.change(connection, row, "retired", reason, now())

    def _watch(self, connection: Connection, row: Row[Any], version: VersionRow) -> None:
        """Take a promoted candidate back where it does badly."""
        trials.change(connection, row, "promoted", row.reason, now())
        before = packages.before_active(connection, row.package)
        reason = reason_to_fall_back(reads_of(connection, before, version), self.policy)
        if reason:
            decide(connection, "rollback", before, POLICY, reason, now(), two_persons=False)
            trials.change(connection, row, "fell_back", reason, now())
            logger().error("fell_back", package=row.package, version=row.version, to=before.version, cause=reason)


def shadowed(
    connection: Connection, active: VersionRow, version: VersionRow, scores: Sequence[Mapping[str, Any]]
) -> Shadowed:
    """Return what a version has shown in shadow beside the active one; `scores` are those on held-back cases."""
    found = comparisons.between(connection, version.package, active.version, version.version)
    told = summary(found)
    dice = [one["dice"] for one in told["findings"].values() if one["dice"] is not None]
    before = min((one["active"] for one in scores if one["scanner"] == ALL), default=None)
    return Shadowed(version.state_at, told["studies"], min(dice, default=None), before)


def reads_of(connection: Connection, before: VersionRow, version: VersionRow) -> Reads:
    """Return what a promoted version did, beside its predecessor."""
    return Reads(
        *trials.sent_and_corrected(connection, version.package, version.version),
        trials.measured(connection, before.package, before.version),
        trials.measured(connection, version.package, version.version),
    )  # fmt: skip
