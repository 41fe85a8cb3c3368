"""A MONAI bundle → a package folder and a parity report. Nothing of a bundle is ever executed.

Its configuration is read as data here (models/bundle/reading.py); its weights are touched by a confined process only
(models/bundle/conversion.py, models/sandbox.py), and what that process hands back goes through the same gate as any
foreign package. It must never write into a folder that is there already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from appliance.errors import PackageRefused, SettingsError
from models.bundle.conversion import ANSWER, PACKAGE
from models.bundle.declaring import Said, Understood, text, understood
from models.bundle.reading import Bundle, open_weights
from models.declaration import Declaration
from models.package import Package, load_package
from models.sandbox import Limits

THREADS = 2


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
        ended = run_child(order, weights, place, limits.wall_s)
    except subprocess.TimeoutExpired:
        raise PackageRefused(f"the import took longer than {limits.wall_s:.0f} s") from None
    finally:
        os.close(weights)
    return answered(place / ANSWER, ended)


def run_child(order: Mapping[str, Any], weights: int, place: Path, wall_s: float) -> int:
    """Run the confined process to its end, with nothing of this one's environment; return its exit code."""
    house = str(Path(__file__).resolve().parents[1])
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-m", "models.bundle.conversion"],
        input=json.dumps(order).encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=place,
        env={"PYTHONPATH": house, "HOME": str(place), "TMPDIR": str(place), "PATH": os.defpath, **threads},
        pass_fds=[weights],
        timeout=wall_s,
        check=False,
    )
    return done.returncode


def answered(path: Path, ended: int) -> dict[str, Any]:
    """Return what the confined process answered; PackageRefused where it refused, died or said nothing."""
    if path.is_symlink() or not path.is_file():
        how = f"by signal {-ended}" if ended < 0 else f"with code {ended}"
        raise PackageRefused(f"the import ended {how}, without an answer: the network may need more than it may use")
    answer: dict[str, Any] = json.loads(path.read_text())
    if "refused" in answer:
        raise PackageRefused(str(answer["refused"]))
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
