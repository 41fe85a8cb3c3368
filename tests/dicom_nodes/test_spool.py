"""Durable, never overwritten, never named by a peer."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from appliance.errors import InstanceRefused, Missing
from dicom_nodes.spool import Spool, write_durably

HOSTILE = ["../../x", "/etc/cron.d/x", "..", "1.2\n3", "$(touch x)", "", "1." * 40, "1.2.", ".1", "1..2", "1.2 3"]


@pytest.fixture(params=["nameless", "named"])
def spool(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """A spool whose parts have no name, and one on a file system where they must have one."""
    if request.param == "named":
        monkeypatch.setattr(os, "O_TMPFILE", 0)  # then opening the folder says EISDIR, as an old file system does
    made = Spool(tmp_path / "spool", 0)
    made.prepare()
    return made


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_the_same_bytes_are_kept_once_and_others_beside_them(spool: Spool) -> None:
    first = spool.keep("1.2.3", b"content")
    again = spool.keep("1.2.3", b"content")
    other = spool.keep("1.2.3", b"CONTENT")
    assert first.new
    assert not again.new
    assert first.path == again.path != other.path
    assert (spool.folder / first.path).read_bytes() == b"content"
    assert set(spool.files()) == {first.path, other.path}


def test_a_checksum_collision_overwrites_nothing(spool: Spool) -> None:
    first = spool.keep("1.2.3", b"content")
    (spool.folder / first.path).write_bytes(b"CONTENT")  # another content under this checksum
    second = spool.keep("1.2.3", b"content")
    assert second.new
    assert (spool.folder / first.path).read_bytes() == b"CONTENT"


@pytest.mark.parametrize("uid", HOSTILE)
def test_hostile_uids_leave_no_file(spool: Spool, tmp_path: Path, uid: str) -> None:
    before = files(tmp_path)
    with pytest.raises(InstanceRefused) as refused:
        spool.keep(uid, b"x")
    assert refused.value.status == InstanceRefused.UNREADABLE
    assert files(tmp_path) == before


def test_leading_zeros_are_kept(spool: Spool) -> None:
    assert spool.keep("1.02.3", b"x").new


def test_low_space_is_answered_out_of_storage(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**9)
    spool.prepare()
    with pytest.raises(InstanceRefused) as refused:
        spool.keep("1.2", b"x")
    assert refused.value.status == 0xA700
    assert list(spool.files()) == []


def test_a_torn_file_is_known_by_its_name(spool: Spool) -> None:
    kept = spool.keep("1.2.3", b"content")
    assert spool.is_whole(kept.path)
    (spool.folder / kept.path).write_bytes(b"conten")
    assert not spool.is_whole(kept.path)
    spool.set_aside(kept.path)
    assert list(spool.files()) == []
    assert len(list(spool.aside.iterdir())) == 1


def test_parts_of_a_crash_are_dropped_at_start(spool: Spool) -> None:
    (spool.parts / "left").write_bytes(b"x")
    spool.prepare()
    assert list(spool.parts.iterdir()) == []


def test_two_receivers_with_one_uid_lose_nothing(spool: Spool) -> None:
    contents = [bytes([n]) * 1000 for n in range(8)]
    threads = [threading.Thread(target=spool.keep, args=("1.2.3", content)) for content in contents * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((spool.folder / path).read_bytes() for path in spool.files()) == contents


def test_the_file_is_synced_before_its_folder_and_after_its_name(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    sync, link = os.fsync, os.link

    def traced_sync(descriptor: int) -> None:
        seen.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", traced_sync)
    monkeypatch.setattr(os, "link", lambda *a, **more: (seen.append("link"), link(*a, **more)))
    spool.keep("1.2.3", b"x")
    assert seen == ["link", "file", "folder"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Missing, match="not writable"):
        Spool(tmp_path / "file" / "spool", 0).prepare()


def test_a_name_whose_file_does_not_reach_the_disk_is_taken_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        with pytest.raises(InstanceRefused, match="Input/output"):
            spool.keep("1.2.3", b"content")
    assert list(spool.files()) == []
    assert spool.keep("1.2.3", b"content").new


def test_the_same_bytes_again_are_ones_own_file_before_they_are_acknowledged(spool: Spool) -> None:
    first = spool.keep("1.2.3", b"content")
    inode = (spool.folder / first.path).stat().st_ino
    spool.keep("1.2.3", b"content")
    assert (spool.folder / first.path).stat().st_ino != inode
    assert os.listdir(spool.parts) == []


def test_what_came_again_is_not_removed_as_old(spool: Spool) -> None:
    path = spool.keep("1.2.3", b"content").path
    os.utime(spool.folder / path, (1000, 1000))
    spool.remove_old(path, 999)
    assert (spool.folder / path).exists()
    spool.remove_old(path, 1001)
    assert not (spool.folder / path).exists()
    spool.remove_old(path, 1001)


def test_what_was_set_aside_goes_in_time(spool: Spool) -> None:
    path = spool.keep("1.2.3", b"content").path
    spool.set_aside(path)
    assert spool.clear_aside(1000) == 0
    assert spool.clear_aside(2**32) == 1


def test_a_durable_write_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.dcm"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert files(tmp_path) == {path}


def test_a_full_disk_is_answered_out_of_storage_and_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, content: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(InstanceRefused, match="No space left") as refused:
        spool.keep("1.2.3", b"x")
    assert refused.value.status == 0xA700
    assert files(spool.folder) == set()


def test_a_failed_sync_is_never_acknowledged(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(InstanceRefused):
        spool.keep("1.2.3", b"x")
