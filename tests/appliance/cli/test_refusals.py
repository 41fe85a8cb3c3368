"""What the operating system refuses is said in one line, with its file; a card that cannot be shown is not taken."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.errors import PackageRefused
from models.gate import inspect
from models.package import load_package
from models.registry import ZOO
from models.signing import make_key


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/srv/my-organs/MANIFEST.json"), "/srv/my-organs/MANIFEST"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_a_disk_that_says_no_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, words: str
) -> None:
    def refused(*given: object) -> None:
        raise error

    make_key(tmp_path / "a.key")
    monkeypatch.setattr("models.package.sign_package", refused)
    monkeypatch.setattr(sys, "argv", ["curie", "models", "sign", str(tmp_path), "--key", str(tmp_path / "a.key")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_card_in_another_encoding_is_refused_by_the_gate(tmp_path: Path) -> None:
    package = load_package(ZOO / "brain-structures")
    for path in package.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "card.md").unlink()
    (tmp_path / "card.md").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(PackageRefused, match=r"card\.md: is not UTF-8 at byte 2"):
        inspect(replace(package, folder=tmp_path))
