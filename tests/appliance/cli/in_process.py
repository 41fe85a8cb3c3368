"""The command line in this process, a second faster than in one of its own: acceptance runs the same commands so."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from appliance.cli import main
from models.registry import _loaded


def curie(*words: str, cwd: Path | None = None) -> CompletedProcess[str]:
    """Run a command in a folder; returns its exit code and what it printed."""
    said, complained = io.StringIO(), io.StringIO()
    _loaded.cache_clear()  # files are looked at as by a fresh process
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(complained):
        patch.chdir(cwd or Path.cwd())
        patch.setattr(sys, "argv", ["curie", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return CompletedProcess(words, int(ended.value.code or 0), said.getvalue(), complained.getvalue())
