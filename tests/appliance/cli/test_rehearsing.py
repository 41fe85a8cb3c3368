"""A rehearsal that fails says how its phantom is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance.cli.in_process import curie
from workers.rehearsal import Rehearsal, Step

STUDY = "2.25.329800735698586629295641978511506172918"


@pytest.mark.parametrize(
    ("study", "last"),
    [(STUDY, f"curie studies forget {STUDY} --reason rehearsal"), ("", "nothing was received here")],
)
def test_what_stays_is_named_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: str, last: str) -> None:
    def steps(own: Rehearsal) -> Iterator[Step]:
        own.study = study
        yield Step("read", False, "no results yet")

    monkeypatch.setattr("appliance.cli.operate.answers_echo", lambda settings: True)
    monkeypatch.setattr(Rehearsal, "steps", steps)
    file = tmp_path / "curie.toml"
    file.write_text('[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\n')
    told = curie("rehearse", "pacs", "--config", str(file))
    assert (told.returncode, told.stdout.splitlines()[-1]) == (1, last)
