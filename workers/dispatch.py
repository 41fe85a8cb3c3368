"""The dispatch process: complete? → route → job → bell; and the reconciler, and the spool's retention.

It decides by pure functions over catalogue rows. It must never read pixels, nor run a model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from celery import Celery

from appliance.catalogue import (
    Catalogue,
    announcements,
    events,
    evidence,
    jobs,
    processes,
    retention,
    unanswered,
    workitems,
)
from appliance.catalogue import routing as decisions
from appliance.catalogue.connection import now
from appliance.catalogue.routing import RoutedPackage
from appliance.completeness import Decision, Limits, StudyFacts
from appliance.completeness import decide as is_complete
from appliance.errors import CurieError
from appliance.gaps import gap_of
from appliance.log import logger
from appliance.routing import RouteDecision
from appliance.routing import decide as route_decision
from appliance.settings import Route, Settings
from appliance.study import StudySummary
from dicom_nodes.spool import Spool
from models.package import Package
from models.registry import open_registry
from workers.auditing import Auditing
from workers.celery_app import ring
from workers.inquiry import Inquiry
from workers.kept_cases import sweep

POLL_S = 0.4
RETENTION_S = 60.0  # between two looks at the spool
RING_AGAIN_S = 5.0
STEP_KEPT = timedelta(days=1)  # a procedure step IN PROGRESS of which nobody says more
ANNOUNCEMENTS_KEPT = timedelta(days=7)
PRIORITIES = {"urgent": 0, "routine": 9}
SHADOW_PRIORITY = 19


class Dispatch:
    """One pass after another over what the catalogue says is due."""

    def __init__(self, settings: Settings, catalogue: Catalogue, app: Celery) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.app = app
        self.spool = Spool(settings.spool_dir, settings.spool.reserve_gb)
        place = settings.completeness
        self.limits = Limits(place.after_release_s, place.quiet_s, place.force_s)
        self.inquiry = Inquiry(settings, catalogue)
        self.registry = open_registry(settings, catalogue)
        self._gaps: dict[str, tuple[datetime, int, str]] = {}  # by study: as of its last instance
        self._silent: set[tuple[str, str]] = set()  # studies of which nobody can say whose they are, by package
        self.auditing = Auditing(settings, catalogue)
        self._retained_at = 0.0
        self._rung_at = 0.0
        self._bell_answers = True

    def step(self) -> None:
        """One pass: complete, route, reconcile, ring, retain, seal."""
        self._complete_studies()
        new = self._route_studies() + self._tell_failures()
        self._reconcile(new)
        if time.monotonic() - self._retained_at > RETENTION_S:
            self._retained_at = time.monotonic()
            self._retain()
        self.auditing.step()

    # --- completeness ---

    def _complete_studies(self) -> None:
        at = now()
        with self.catalogue.read() as connection:
            facts = evidence.receiving_studies(connection, at)
            behind_s = processes.behind_s(connection, at) if facts else 0.0
        self._gaps = {study: known for study, known in self._gaps.items() if study in facts}
        self.inquiry.consider(facts, at)
        for study, fact in facts.items():
            decision = self._decide(study, fact, at, behind_s)
            if decision.complete:
                self._complete(study, fact, decision, at)

    def _decide(self, study: str, fact: StudyFacts, at: datetime, behind_s: float) -> Decision:
        """Decide; look for gaps, which is costly, only where nothing but a gap would keep the study waiting."""
        decision = is_complete(fact, self.limits, at, behind_s)
        if decision.reason != "released":
            return decision
        return is_complete(replace(fact, gap=self._gap(study, fact)), self.limits, at, behind_s)

    def _gap(self, study: str, fact: StudyFacts) -> str:
        last, known, gap = self._gaps.get(study, (None, 0, ""))
        with self.catalogue.read() as connection:
            held = evidence.held_of(connection, study)
            if (last, known) != (fact.last_received_at, held):
                gap = gap_of(evidence.places(connection, study))
        self._gaps[study] = (fact.last_received_at, held, gap)
        return gap

    def _complete(self, study: str, fact: StudyFacts, decision: Decision, at: datetime) -> None:
        with self.catalogue.write() as connection:
            done = evidence.complete_study(
                connection, study, decision.reason, fact.last_received_at, at, decision.evidence
            )
        if done:
            logger().info("study_complete", study=study, reason=decision.reason, evidence=decision.evidence)

    # --- routing ---

    def _route_studies(self) -> list[str]:
        with self.catalogue.read() as connection:
            waiting = decisions.studies_to_route(connection)
        return [job for study in waiting for job in self._route(study)]

    def _route(self, study: str) -> list[str]:
        """Decide every route for one study in one transaction; returns the jobs that are new."""
        with self.catalogue.read() as connection:
            summary = decisions.study_summary(connection, study)
            asked = workitems.asked(connection, study)
        decided = [self._decided(route, summary, asked) for route in self.settings.routes]
        running = [route for route in self.settings.routes if not route.on_request or route.name in asked]
        shadows = [one for route in running for one in self._shadows(route, summary)]
        with self.catalogue.write() as connection:
            if (decisions.study_summary(connection, study), workitems.asked(connection, study)) != (summary, asked):
                return []  # it grew or was asked for meanwhile; the next pass sees it whole
            new = [decisions.record_decision(connection, summary, to, what, now()) for to, what in decided]
            opened = [decisions.open_shadow(connection, summary, to, what, now()) for to, what in shadows]
            decisions.mark_routed(connection, study, now())
        logger().info("study_routed", study=study, outcomes=[what.outcome for _, what in decided])
        return [job for job in new if job] + [job for job, is_new in opened if is_new]

    def _decided(
        self, route: Route, summary: StudySummary, asked: Mapping[str, bool]
    ) -> tuple[RoutedPackage, RouteDecision]:
        """Decide one route. `asked`: the routes that worklists ask for, and whether urgently."""
        if route.on_request and route.name not in asked:
            return unresolved(route), RouteDecision("not_routed", "the route runs only where a worklist asks for it")
        if asked.get(route.name):
            route = route.model_copy(update={"priority": "urgent"})
        try:
            package = self.registry.routed(route.package)
        except CurieError as error:
            return unresolved(route), RouteDecision("failed", str(error))
        to = replace(target(route, package), accepted={one.name: one.results for one in self.settings.destinations})
        return to, route_decision(summary, route.match, package.requirements)

    def _shadows(self, route: Route, summary: StudySummary) -> list[tuple[RoutedPackage, RouteDecision]]:
        """Return the jobs of versions that run beside the active one; a version pinned by the route has none."""
        if "@" in route.package:
            return []
        try:
            packages = self.registry.shadows(route.package)
        except CurieError as error:
            logger().error("shadow_not_loaded", package=route.package, cause=str(error))
            return []
        found = [
            (shadow_target(route, one), route_decision(summary, route.match, one.requirements)) for one in packages
        ]
        return [(to, decision) for to, decision in found if decision.outcome == "job"]

    # --- what had no result ---

    def _tell_failures(self) -> list[str]:
        """Open a report for each outcome without a result, where its route asks for one; returns the new jobs."""
        routes = {one.name: one for one in self.settings.routes if one.report_failure}
        with self.catalogue.read() as connection:
            rows = unanswered.untold(connection, list(routes))
            rows = [one for one in rows if (one.study_instance_uid, one.package) not in self._silent]
            silent = [one for one in rows if decisions.study_summary(connection, one.study_instance_uid).problem]
        self._silent.update((one.study_instance_uid, one.package) for one in silent)
        left = {(one.study_instance_uid, one.package): one for one in rows if one not in silent}  # once for both
        new = []
        for row in left.values():
            route = routes[row.route]
            with self.catalogue.write() as connection:
                opened = unanswered.open_report(connection, row, route.destinations, PRIORITIES[route.priority], now())
            new += [opened] if opened else []
        return new

    # --- reconciler ---

    def _reconcile(self, new: Sequence[str]) -> None:
        """Fail jobs whose worker keeps dying; ring for what is due, at once when new, else every 5 s."""
        with self.catalogue.read() as connection:
            due = jobs.due_count(connection, now())
            exhausted = jobs.any_exhausted(connection, now())
        if exhausted:
            with self.catalogue.write() as connection:
                for job in jobs.fail_exhausted(connection, now()):
                    logger().error("job_failed", job=job, reason="the worker died too often")
        if new or (due and time.monotonic() - self._rung_at > RING_AGAIN_S):
            self._rung_at = time.monotonic()
            answers = ring(self.app)
            if answers != self._bell_answers:
                logger().warning("broker_answers" if answers else "broker_away")
            self._bell_answers = answers

    # --- retention ---

    def _retain(self) -> None:
        """Delete spool files past `keep_days`, and older ones first while space is below the reserve; old cases too."""
        with self.catalogue.write() as connection:
            announcements.end_stale_steps(connection, now() - STEP_KEPT)
            announcements.forget(connection, now() - ANNOUNCEMENTS_KEPT)
        keep = timedelta(days=self.settings.spool.keep_days)
        self._remove_before(keep)
        cleared = self.spool.clear_aside(time.time() - keep.total_seconds())
        if cleared:
            logger().info("set_aside_removed", count=cleared)
        sweep(self.settings, self.catalogue, now())
        while self.spool.is_low() and keep > timedelta(hours=1):
            keep /= 2
            self._remove_before(keep)

    def _remove_before(self, age: timedelta) -> None:
        while True:
            marked_at = time.time()
            with self.catalogue.write() as connection:
                rows = retention.removable_files(connection, now() - age)
                retention.mark_removed(connection, [id for id, _ in rows])
                if rows:
                    events.record(connection, "images_removed", count=len(rows))
            for _, path in rows:
                self.spool.remove_old(path, marked_at)
            if not rows:
                return
            logger().info("images_removed", count=len(rows), older_than_s=round(age.total_seconds()))


def target(route: Route, package: Package) -> RoutedPackage:
    """Return what a decision of this route speaks of."""
    return RoutedPackage(
        route.name,
        package.id,
        package.version,
        package.digest,
        route.destinations,
        PRIORITIES[route.priority],
        negative=route.report_negative,
    )


def shadow_target(route: Route, package: Package) -> RoutedPackage:
    """Return the same for a version in shadow: no destination, after everything else."""
    return RoutedPackage(route.name, package.id, package.version, package.digest, (), SHADOW_PRIORITY, shadow=True)


def unresolved(route: Route) -> RoutedPackage:
    """Return the same for a route whose package cannot be used."""
    name, _, version = route.package.partition("@")
    return RoutedPackage(route.name, name, version, "", route.destinations, PRIORITIES[route.priority])
