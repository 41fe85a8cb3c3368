"""What the operating system refuses is said in one line, with its file; a card that cannot be shown is not taken."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.catalogue import open_catalogue
from appliance.cli import main
from appliance.errors import PackageRefused
from models.gate import inspect
from models.package import load_package
from models.registry import ZOO
from models.signing import make_key
from tests.appliance.catalogue.rows import instance, receive
from tests.appliance.cli.in_process import curie


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


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("catch-up CT --since 2026-13-99", 2, "'2026-13-99' is no date; write 2026-11-23."),
        ("audit export out.jsonl --since yesterday", 2, "'yesterday' is no date; write 2026-11-23."),
        ("audit export curie.toml", 2, "curie.toml is there already; name another file"),
        ("studies replay --package hippocampus --days 0", 2, "name studies, or --days N of at least 1"),
        ("studies replay 1.2 --package hippocampus --days 1", 2, "name studies, or --days N of at least 1; not both"),
        ("studies replay --package hippocampus --days 1 --send", 2, "name studies with --send"),
        ("studies replay --package nope@1.0.0 --days 1", 3, "nope"),
        ("studies forget 1.2 --reason asked", 3, "say --yes"),
        ("federation rounds", 2, "there is no [coordinator] in the settings"),
        ("users password anna --password-file gone", 3, "--password-file gone cannot be read: No such file"),
        ("models rollback hippocampus --by Ann --reason worse", 3, "none was active before"),
    ],
)
def test_a_refusal_says_what_to_write(tmp_path: Path, words: str, code: int, said: str) -> None:
    (tmp_path / "curie.toml").write_text("")
    catalogue = open_catalogue(f"sqlite:///{tmp_path}/curie-data/curie.db", tmp_path / "curie-data")
    with catalogue.write() as connection:
        receive(connection, instance(study="1.2"))
    catalogue.close()
    ran = curie(*words.split(), cwd=tmp_path)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (code, 1), ran.stderr
    assert said in ran.stderr
    for wrong in ("Value error", "Errno", "look at owner", "without --send"):
        assert wrong not in ran.stderr


def test_status_counts_the_alarms_that_it_does_not_write_out(tmp_path: Path) -> None:
    (tmp_path / "curie.toml").write_text("")
    lines = curie("status", cwd=tmp_path).stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("alarms"))
    count = int(lines[at].split()[1])
    assert count > 3
    assert lines[at + 4] == f"          and {count - 3} more: see the console"
