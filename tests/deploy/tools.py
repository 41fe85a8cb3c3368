"""The tools that check what lies under deploy/, where they are; `make check-deploy` installs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FETCHED = ROOT / ".build" / "deploy-tools"
PLACES = (Path(sys.prefix) / "bin", Path(sys.executable).parent, FETCHED, *map(Path, ("/usr/sbin", "/sbin")))
CURIE = (sys.executable, "-m", "appliance.cli.main")


def tool(name: str) -> str:
    """Return the path of a program; the test is skipped where it is absent."""
    found = shutil.which(name, path=os.pathsep.join([*map(str, PLACES), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed (make check-deploy)")
    return found


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said, both streams in stdout."""
    words = [str(word) for word in command]
    more = {"timeout": 60, **more}
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def succeeds(*command: str | Path, **more: Any) -> str:
    """Run a program that must end well; return what it said."""
    ran = run(*command, **more)
    assert ran.returncode == 0, ran.stdout[-3000:]
    return ran.stdout


def documents(text: str) -> list[dict[str, Any]]:
    """Return the documents of a YAML text."""
    yaml = pytest.importorskip("yaml")
    return [one for one in yaml.safe_load_all(text) if one]


def processes_known() -> set[str]:
    """Return the processes that `curie run` knows."""
    from appliance.cli.operate import ProcessName

    return {one.value for one in ProcessName} | {"console"}


def words_after(words: Sequence[str], first: str) -> str:
    """Return the word after `first`."""
    return words[list(words).index(first) + 1]
