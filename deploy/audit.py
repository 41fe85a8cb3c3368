"""`make audit`: asks pip-audit for known vulnerabilities of what an environment holds. It reports and never blocks.

pip-audit calls packages that the advisory service did not know "skipped", and ends well when all of them are; here
what was not looked up is never counted as safe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

OURS = "petite-curie"
NOT_REACHED = "audit: the advisory service could not be reached; nothing was looked up"


def main(pip_audit: str, folder: str, report: Path) -> None:
    """Look up what is installed in a folder of packages; print what was found, keep pip-audit's own report."""
    report.unlink(missing_ok=True)
    command = [pip_audit, "--path", folder, "--progress-spinner", "off", "--format", "json", "--output", str(report)]
    ran = subprocess.run(command, capture_output=True, text=True)
    report.with_suffix(".log").write_text(ran.stdout + ran.stderr)
    try:
        lines = told(json.loads(report.read_text())["dependencies"])
    except (OSError, ValueError, KeyError):
        lines = [f"{NOT_REACHED} ({report.with_suffix('.log')})"]
    print("\n".join(lines))


def told(dependencies: list[dict[str, Any]]) -> list[str]:
    """Return a line for each vulnerability, and one of how much was looked up."""
    theirs = [one for one in dependencies if one["name"] != OURS]
    skipped = [one["name"] for one in theirs if "skip_reason" in one]
    if len(skipped) == len(theirs):
        return [NOT_REACHED]
    found = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in theirs
        for flaw in one.get("vulns", [])
    ]
    said = f"audit: {len(found)} known vulnerabilities in {len(theirs) - len(skipped)} packages that were looked up"
    return [*found, said + (f"; not looked up: {', '.join(skipped)}" if skipped else "")]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
