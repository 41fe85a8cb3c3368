"""How this site answers one question: policy first, then training that gives way, then the guard, then the ledger.

Free of the engine, and of torch: it runs in the process that talks to the coordinator.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance.catalogue import Catalogue, events, overview
from appliance.errors import CurieError, Missing, RoundRefused
from appliance.log import logger
from appliance.settings import Settings
from models.federation import Update
from models.registry import Registry
from workers.asking import Ask, abstention, read_ask
from workers.sidecar import guard
from workers.sidecar.cases import count_cases, count_new_cases
from workers.sidecar.ledger import Entry
from workers.sidecar.places import Places
from workers.sidecar.policy import Situation, reason_to_abstain
from workers.sidecar.yielding import Yielding

LARGEST_PACKAGE = 4 * 2**30
TRAINER = (sys.executable, "-m", "workers.sidecar.training_run")


class Site:
    """One hospital in the rounds; `name` stands in its certificate."""

    def __init__(self, name: str, settings: Settings, catalogue: Catalogue) -> None:
        assert settings.federation is not None
        self.name, self.settings, self.catalogue = name, settings, catalogue
        self.own = settings.federation
        self.places = Places(settings.data_dir)
        self.trainer = Yielding(TRAINER, lambda: self.clinical() > 0, self.own.max_minutes * 60)

    def close(self) -> None:
        """End the trainer."""
        self.trainer.end()

    def answer(self, request: bytes, give_up: Callable[[], bool]) -> bytes:
        """Return an update or an abstention; it stands in the ledger when this returns."""
        try:
            base, ask = read_ask(request)
        except RoundRefused as error:
            return self._sit_out(None, str(error), "refused")
        reason = reason_to_abstain(self.situation(ask))
        if reason is not None:
            return self._sit_out(ask, reason)
        try:
            content, cost = self._trained(request, give_up)
            update = guard.passed(content, ask, base, self.name)
        except CurieError as error:
            return self._sit_out(ask, str(error), "refused" if isinstance(error, RoundRefused) else "abstained")
        return self._let_out(content, ask, update, cost)

    def situation(self, ask: Ask) -> Situation:
        """Return what the policy looks at, now."""
        ledger = self.places.ledger
        learned_at = ledger.learned_at(ask.package, but=ask.cycle)
        return Situation(
            package=f"{ask.package}@{ask.version}",
            clock=datetime.now().time(),
            hours=self.own.hours,
            paused=self.places.paused.exists(),
            approved=self._is_approved(ask),
            clinical=self.clinical(),
            new_cases=count_new_cases(self.settings, self.catalogue, ask.package, learned_at),
            min_new_cases=self.own.min_new_cases,
            epsilon_spent=ledger.epsilon(ask.package),
            epsilon_budget=self.own.epsilon_budget,
            private=self.own.privacy == "dp",
        )

    def clinical(self) -> int:
        """Return how many clinical jobs wait or run."""
        with self.catalogue.read() as connection:
            return overview.clinical_jobs(connection)

    def _is_approved(self, ask: Ask) -> bool:
        if ask.package not in self.own.packages:
            return False
        try:
            row = Registry(self.settings, self.catalogue).row(f"{ask.package}@{ask.version}")
        except Missing:
            return False
        return row.digest == ask.package_digest and row.state != "retired"

    def _trained(self, request: bytes, give_up: Callable[[], bool]) -> tuple[bytes, dict[str, Any]]:
        """Return the trainer's answer and what it cost. Raises CurieError where there is none."""
        folder = self.places.work
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        (folder / "request.bin").write_bytes(request)
        (folder / "site").write_text(self.name)
        if not self.trainer.do(folder, give_up):
            raise CurieError("training failed, or was not done in time")
        cost: dict[str, Any] = json.loads((folder / "cost.json").read_text())
        return (folder / "answer.bin").read_bytes(), cost

    def _let_out(self, content: bytes, ask: Ask, update: Update | None, cost: dict[str, Any]) -> bytes:
        what = "abstention" if update is None else "update"
        cases = count_cases(self.settings, self.catalogue, ask.package)
        spent = cost if update is not None else {}
        self._on_record(ask, "abstained" if update is None else "took_part")
        self._note(ask, what, content, cases=cases, **spent)
        logger().info("answered", what=what, cycle=ask.cycle, round=ask.round, bytes=len(content))
        return content

    def _sit_out(self, ask: Ask | None, reason: str, outcome: str = "abstained") -> bytes:
        content = abstention(reason)
        self._on_record(ask, outcome)
        self._note(ask, "abstention", content, detail=reason)
        logger().info("abstains", cause=reason)
        return content

    def _on_record(self, ask: Ask | None, outcome: str) -> None:
        """Record how this site answered: took_part, abstained by its policy, or refused what was asked or trained."""
        about = {"package": ask.package, "cycle": ask.cycle, "round": ask.round} if ask else {"package": ""}
        with self.catalogue.write() as connection:
            events.record(connection, "round_answered", outcome=outcome, **about)

    def _note(self, ask: Ask | None, what: str, content: bytes, **more: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        package, cycle, number = (ask.package, ask.cycle, ask.round) if ask else ("", "", 0)
        digest = hashlib.sha256(content).hexdigest()
        self.places.ledger.add(Entry(at, package, cycle, number, what, len(content), digest, **more))

    def take(self, content: bytes) -> bytes:
        """Keep a package that the coordinator sent, unread, until somebody installs it; returns a receipt."""
        if len(content) > LARGEST_PACKAGE:
            return abstention("it is too large for a package")
        digest = hashlib.sha256(content).hexdigest()
        place: Path = self.places.arrived / f"{digest[:16]}.zip"
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        partial = place.with_suffix(".partial")
        partial.write_bytes(content)
        partial.rename(place)
        logger().info("package_arrived", sha256=digest, bytes=len(content))
        receipt = f"has {digest[:16]}".encode()
        self._note(None, "receipt", receipt, detail=receipt.decode())
        return receipt
