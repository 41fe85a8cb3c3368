"""The trainer: one round of local training in a process of its own, which alone imports torch.

    python -m workers.sidecar.training_run

For each line of stdin, a folder: reads request.bin in it, writes answer.bin (an update, clipped and encoded, or an
abstention) and cost.json, and says "done". One process for all rounds of a job, because loading torch takes longer
than many a round. It must never send anything: the process that started it looks at the answer first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from appliance.catalogue import open_catalogue
from appliance.errors import CurieError
from appliance.federation_settings import Federation
from appliance.log import logger, start_logging
from appliance.settings import Settings, load
from models import local_pass
from models.contribution import contribution
from models.federation import Floats, Update, Weights, clipped, encode, from_bytes, left_behind, to_bytes
from models.local_pass import Case, Plan
from models.package import Package
from models.registry import Registry
from workers.asking import Ask, abstention, read_ask
from workers.sidecar.cases import held_back_cases, training_cases
from workers.sidecar.places import Places

DELTA = 1e-5  # of differential privacy


@dataclass(frozen=True)
class Cost:
    """What a round's answer cost in privacy."""

    noise: float = 0.0
    rate: float = 0.0
    steps: int = 0
    epsilon: float = 0.0  # of all rounds so far and this one


def main() -> None:
    """Answer requests until stdin ends."""
    start_logging("sidecar-training")
    settings = load()
    for line in sys.stdin:
        answer_in(Path(line.strip()), settings)
        print("done", flush=True)


def answer_in(folder: Path, settings: Settings) -> None:
    """Answer the request in a folder."""
    try:
        answer, cost = answered(folder, settings)
    except CurieError as error:
        logger().info("abstains", cause=str(error))
        answer, cost = abstention(str(error)), Cost()
    (folder / "answer.bin").write_bytes(answer)
    (folder / "cost.json").write_text(json.dumps(asdict(cost)))


def answered(folder: Path, settings: Settings) -> tuple[bytes, Cost]:
    """Return the update that answers a request, and its cost. Raises CurieError where there is none."""
    assert settings.federation is not None
    base, ask = read_ask((folder / "request.bin").read_bytes())
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        package = Registry(settings, catalogue).of_digest(ask.package_digest)
        cases = training_cases(settings, catalogue, package)
        judging = held_back_cases(settings, catalogue, package)
    finally:
        catalogue.close()
    places = Places(settings.data_dir)
    plan = plan_of(ask, package, settings.federation)
    cost = cost_of(plan, cases, places.ledger.history(package.id))
    if cost.epsilon > settings.federation.epsilon_budget:
        raise CurieError(f"this round would spend the privacy budget ({cost.epsilon:.2f})")
    own = places.kept / package.id / "own-layers.safetensors"
    stayed = from_bytes(own.read_bytes()) if own.exists() else None
    made = contribution(package, base, (cases, judging), plan, settings.federation.device, stayed)
    if plan.personal:
        _keep(own, made.own)
    metrics = {"epsilon": round(cost.epsilon, 4)} if plan.noise else made.metrics
    site = (folder / "site").read_text()
    return encoded(made.deltas, ask, site, (len(cases), metrics), (settings.federation, places)), cost


def plan_of(ask: Ask, package: Package, settings: Federation) -> Plan:
    """Return how to train: numbers of the question, privacy and device of the site, windows of the package."""
    return Plan(
        steps=ask.steps, batch=ask.batch, crop=tuple(package.manifest.inference.roi), seed=ask.seed,
        learning_rate=ask.learning_rate, proximal=ask.proximal, personal=settings.personal,
        mixed_precision=settings.device != "cpu", noise=settings.noise if settings.privacy == "dp" else 0.0,
    )  # fmt: skip


def cost_of(plan: Plan, cases: Sequence[Case], history: list[tuple[float, float, int]]) -> Cost:
    """Return what a round costs on top of the earlier ones; nothing where no noise is added."""
    if not plan.noise:
        return Cost()
    rate = local_pass.sample_rate(len({one.patient for one in cases}), plan)
    spent = local_pass.epsilon_of([*history, (plan.noise, rate, plan.steps)], DELTA)
    return Cost(plan.noise, rate, plan.steps, spent)


def encoded(
    deltas: dict[str, Floats], ask: Ask, site: str, told: tuple[int, dict[str, float]],
    kept: tuple[Federation, Places],
) -> bytes:  # fmt: skip
    """Return the update as it leaves, clipped; with int8, what the encoding lost goes into the next one."""
    settings, places = kept
    rest = places.kept / ask.package / "left-behind.safetensors"
    if settings.wire == "int8" and rest.exists():
        before = from_bytes(rest.read_bytes())
        deltas = {name: one + before.get(name, 0) for name, one in deltas.items()}
    update = Update(ask.question(site), clipped(deltas, ask.clip_norm), *told)
    content = encode(update, settings.wire)
    if settings.wire == "int8":
        _keep(rest, left_behind(update, content))
    return content


def _keep(path: Path, weights: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    partial = path.with_suffix(".partial")
    partial.write_bytes(to_bytes(weights))
    partial.rename(path)


if __name__ == "__main__":
    main()
