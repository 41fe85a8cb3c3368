"""The audit reports and never blocks, and what was not looked up is never called safe."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import DEPLOY, succeeds

SKIPPED = {"name": "torch", "skip_reason": "Dependency not found"}
SAFE = {"name": "six", "version": "1.17.0", "vulns": []}
BAD = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "CVE-2019-10906", "fix_versions": ["2.10.1"]}]}
NOT_REACHED = "audit: the advisory service could not be reached; nothing was looked up"


def audited(folder: Path, answer: str, code: int) -> str:
    """Return what is said when pip-audit writes `answer` and ends with `code`."""
    program = folder / "pip-audit"
    program.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[-1], 'w').write({answer!r})\nsys.exit({code})\n")
    program.chmod(0o755)
    return succeeds(sys.executable, DEPLOY / "audit.py", program, "/somewhere", folder / "audit.json")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([SAFE, {"name": "petite-curie", "skip_reason": "ours"}],
         "audit: 0 known vulnerabilities in 1 packages that were looked up\n"),
        ([SAFE, SKIPPED], "audit: 0 known vulnerabilities in 1 packages that were looked up; not looked up: torch\n"),
        ([SAFE, BAD], "jinja2 2.10: CVE-2019-10906, mended in 2.10.1\n"
                      "audit: 1 known vulnerabilities in 2 packages that were looked up\n"),
        ([SKIPPED], NOT_REACHED + "\n"),
        ([], NOT_REACHED + "\n"),
    ],
)  # fmt: skip
def test_it_says_what_was_found_and_what_was_not_looked_up(
    tmp_path: Path, found: list[dict[str, Any]], said: str
) -> None:
    assert audited(tmp_path, json.dumps({"dependencies": found}), int(BAD in found)) == said


def test_a_service_that_is_away_is_one_line(tmp_path: Path) -> None:
    (line,) = audited(tmp_path, "", 1).splitlines()
    assert line == f"{NOT_REACHED} ({tmp_path}/audit.log)"
