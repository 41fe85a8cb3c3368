"""A MONAI bundle → a package folder and a parity report. Nothing of a bundle is ever executed.

Its configuration is read as data here (models/bundle/reading.py); its weights are touched by a confined process only
(models/bundle/conversion.py, models/sandbox.py), and what that process hands back goes through the same gate as any
foreign package. It must never write into a folder that is there already.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from appliance.errors import PackageRefused, SettingsError
from models.bundle.conversion import ANSWER, PACKAGE
from models.bundle.declaring import Said, Understood, text, understood
from models.bundle.reading import Bundle, open_weights, read_json
from models.declaration import Declaration
from models.package import Package, load_package
from models.sandbox import BY_SIGNAL, KILLING_S, OUT_OF_TIME, Limits

THREADS = 2
GRACE_S = 30.0  # beyond the limit, for the keeper to end what it keeps
MOST_CHARACTERS = 500  # of a refusal
SENSIBLE = {"held": list, "engines": list, "monai": dict}  # an answer's keys


def import_bundle(folder: Path, out: Path, said: Said, limits: Limits | None = None) -> dict[str, Any]:
    """Write the package of a bundle to `out`, a new folder, and the parity report beside it; return the report."""
    if out.exists():
        raise SettingsError(f"{out} is there already; name a folder that is not")
    bundle = Bundle(folder, said.left_out)
    read = understood(bundle, said)
    check_declaration(read.declared)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=out.parent.absolute()) as place:
        answer = converted(bundle, read, Path(place), limits or Limits())
        package = received(Path(place) / PACKAGE)
        report = reported(package, read, answer, out)
        (Path(place) / PACKAGE).rename(out)
    report_path(out).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def report_path(out: Path) -> Path:
    """Return where the parity report of the package at `out` is written."""
    return out.with_name(f"{out.name}.parity.json")


def check_declaration(declared: Mapping[str, Any]) -> None:
    """Raise PackageRefused unless a package may declare this."""
    try:
        Declaration.model_validate_json(json.dumps(declared))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise PackageRefused(f"the bundle asks for what a package cannot declare: {where}: {fault['msg']}") from None


def converted(bundle: Bundle, read: Understood, place: Path, limits: Limits) -> dict[str, Any]:
    """Let a confined process convert the weights below `place`; PackageRefused says what it found wrong."""
    weights = open_weights(bundle.folder)
    order = {
        "folder": str(place),
        "weights": weights,
        "limits": asdict(limits),
        "threads": THREADS,
        "declared": read.declared,
        "card": card(bundle, read),
        "monai": {
            "preprocessing": read.prepared.kept,
            "inferer": [read.inferer.name, dict(read.inferer.arguments)],
            "nearest": read.decided.method == "nearest",
        },
    }
    try:
        ended = run_child(order, weights, place)
    finally:
        os.close(weights)
    if ended == OUT_OF_TIME:
        raise PackageRefused(f"the import took longer than {limits.wall_s:.0f} s")
    return answered(place / ANSWER, ended)


def run_child(order: Mapping[str, Any], weights: int, place: Path) -> int:
    """Run the keeper of the confined process, with nothing of this one's environment; return how that ended."""
    house = str(Path(__file__).resolve().parents[1])
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    keeper = subprocess.Popen(
        [sys.executable, "-m", "models.bundle.conversion"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=place,
        env={"PYTHONPATH": house, "HOME": str(place), "TMPDIR": str(place), "PATH": os.defpath, **threads},
        pass_fds=[weights],
        start_new_session=True,
    )
    try:
        keeper.communicate(json.dumps(order).encode(), order["limits"]["wall_s"] + GRACE_S)
    except subprocess.TimeoutExpired:
        return OUT_OF_TIME
    finally:
        ended(keeper)
    return keeper.returncode


def ended(keeper: subprocess.Popen[bytes]) -> None:
    """End a keeper that still runs, which ends what it keeps; then whatever is left of its session."""
    keeper.terminate()
    try:
        keeper.wait(2 * KILLING_S)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    with suppress(ProcessLookupError):
        os.killpg(keeper.pid, signal.SIGKILL)


def answered(path: Path, code: int) -> dict[str, Any]:
    """Return what the confined process answered; PackageRefused where it refused, died or said nothing sensible."""
    if not os.path.lexists(path):
        how = f"by signal {code - BY_SIGNAL}" if code > BY_SIGNAL else f"with code {code}"
        raise PackageRefused(f"the import ended {how}, without an answer: the network may need more than it may use")
    answer = read_json(path.parent, path.name)
    if isinstance(answer.get("refused"), str):
        raise PackageRefused(" ".join(answer["refused"].split())[:MOST_CHARACTERS])
    kinds = {key: type(value) for key, value in answer.items()}
    if kinds != SENSIBLE or not all(isinstance(one, str) for one in answer["held"]):
        raise PackageRefused("the import answered with something else than its figures")
    return answer


def received(folder: Path) -> Package:
    """Return the package that the confined process wrote, checked as a stranger's would be."""
    from models.gate import inspect

    package = load_package(folder)
    inspect(package)
    return package


def reported(package: Package, read: Understood, answer: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return the parity report: engines on the golden case, MONAI's pipeline, known differences, the next steps."""
    return {
        "package": package.name,
        "folder": str(out),
        "digest": package.digest,
        "engines": answer["engines"],
        "monai": answer["monai"],
        "differences": list(read.differences),
        "confined": answer["held"],
        "next": [
            f"read {out}/card.md and package.json: which series it reads is a first guess",
            f"curie models sign {out}",
            f"curie models install {out}",
        ],
    }


def card(bundle: Bundle, read: Understood) -> str:
    """Return card.md: what the bundle says of itself, and that nobody here has measured it."""
    declared = read.declared
    figures = bundle.metadata.get("eval_metrics")
    lines = [f"- {name}: {value}" for name, value in figures.items()] if isinstance(figures, dict) else []
    told = {key: text(bundle, key) for key in ("description", "task", "authors", "copyright", "data_source", "version")}
    return "\n".join(
        [
            f"# {declared['id']} {declared['version']}",
            "",
            "**Not for clinical use. Imported from a MONAI bundle; not validated here.**",
            "",
            "## What the bundle says of itself",
            *bullets([f"{key}: {value}" for key, value in told.items() if value]),
            "",
            "## Its publisher's figures, not repeated here",
            *(lines or ["none stated"]),
            "",
            "## How this package differs from the bundle's own pipeline",
            *bullets(read.differences or ["in nothing known"]),
            "",
            "## Limits",
            declared["limits"],
            "",
        ]
    )


def bullets(lines: Sequence[str]) -> list[str]:
    """Return lines of a list in Markdown."""
    return [f"- {line}" for line in lines]
