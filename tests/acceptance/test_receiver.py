"""The receiver killed at random, traced, and fed odd files: what it acknowledged is there, byte for byte."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from sqlalchemy import select

from appliance.catalogue import open_catalogue
from appliance.catalogue.tables import instance
from bench.datasets import Instance, instances, write_part10
from bench.pdus import Broken
from bench.replayer import Association, Place, encode
from tests.acceptance.door import Door, kill_quietly
from tests.acceptance.house import absent, wait_for
from tests.raw_peer import C_STORE, COMMAND, LAST, RawPeer, command, data, fragment

pytestmark = pytest.mark.acceptance
ROUNDS = 50
SENDERS = 4
PAUSE_S = 0.02  # so that what is to be indexed at the end stays within the time of CI


Open = Callable[..., Door]


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[Open]:
    """Return a function that starts a receiver; it has ended in order at the end."""
    opened: list[Door] = []

    def start(receiver: str = "", before: Sequence[str] = ()) -> Door:
        door = Door(tmp_path / "door", receiver)
        opened.append(door)
        door.start(before)
        return door

    yield start
    for one in opened:
        if one.process is not None and one.process.poll() is None:
            assert one.stop() == 0


class Sender(threading.Thread):
    """A PACS that sends one instance after another, and again what was not acknowledged, whatever happens."""

    def __init__(self, place: Place, waiting: Iterator[Instance], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.place = place
        self.waiting = waiting
        self.over = over
        self.acknowledged: list[Instance] = []
        self.interrupted = 0

    def run(self) -> None:
        """Send until told to stop."""
        one = next(self.waiting)
        while not self.over.is_set():
            try:
                association = Association(self.place, one.sop_class_uid)
            except (OSError, Broken):
                time.sleep(0.02)
                continue
            try:
                while not self.over.is_set():
                    (message,) = encode([one], association.maximum)
                    if association.exchange(message) == 0:
                        self.acknowledged.append(one)
                        one = next(self.waiting)
                    time.sleep(PAUSE_S)
            except (OSError, Broken):
                self.interrupted += 1
            finally:
                association.close()


class Waiting:
    """Instances to send, for several threads; each time new ones, now and then one twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = self._endless()

    def _endless(self) -> Iterator[Instance]:
        for run in range(10_000):
            for one in instances("mr", f"kill/{run}", 100):
                yield one
                if one.sop_instance_uid.endswith("7"):
                    yield one

    def __iter__(self) -> Iterator[Instance]:
        return self

    def __next__(self) -> Instance:
        with self._lock:
            return next(self._made)


def test_what_was_acknowledged_survives_kills_at_random_moments(open_door: Open) -> None:
    door = open_door("processes = 2\nmax_associations_per_source = 64")
    chance, over, waiting = random.Random(1914), threading.Event(), Waiting()
    senders = [Sender(Place(door.port, "CURIE", "SCANNER"), waiting, over) for _ in range(SENDERS)]
    for one in senders:
        one.start()
    for number in range(ROUNDS):
        time.sleep(chance.uniform(0.05, 0.4))
        if number % 8 == 0:
            door.kill_parent()
            door.start()
        else:
            assert door.process is not None
            parent = psutil.Process(door.process.pid)
            children = wait_for("a child", parent.children, 20)
            kill_quietly(chance.choice(children).pid)
    over.set()
    for one in senders:
        one.join(timeout=30)
    wait_for("the receiver", door.answers, 20)
    assert door.process is not None
    assert psutil.Process(door.process.pid).num_threads() == 1, "only such a process may fork"
    acknowledged = [one for sender in senders for one in sender.acknowledged]
    assert sum(sender.interrupted for sender in senders) > ROUNDS / 2
    assert len(acknowledged) > 10 * ROUNDS
    check_all_there(door, acknowledged)
    assert door.stop() == 0
    assert os.listdir(door.spool / "part") == []


def check_all_there(door: Door, acknowledged: list[Instance]) -> None:
    """Each one has one row, and a file that ends with the bytes as sent."""
    expected = {one.sop_instance_uid: one for one in acknowledged}
    catalogue = open_catalogue(door.settings.catalogue_url, door.settings.data_dir)

    def rows() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with catalogue.read() as connection:
            for uid, path in connection.execute(select(instance.c.sop_instance_uid, instance.c.path)):
                found.setdefault(uid, []).append(path)
        return found

    wait_for("all rows", lambda: set(expected) <= set(rows()), 120)
    found = rows()
    catalogue.close()
    assert {uid for uid, paths in found.items() if len(paths) > 1} == set(), "indexed twice"
    for uid, one in expected.items():
        assert (door.spool / found[uid][0]).read_bytes().endswith(one.dataset()), uid
    print(f"{len(acknowledged)} acknowledged, {len(expected)} instances, {len(found)} rows")


def test_each_response_leaves_after_file_and_folder_are_synced(open_door: Open, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=link,linkat,rename,renameat2,fsync,fdatasync,sendto,write,sendmsg"
    door = open_door(before=["strace", "-f", "-y", "-s", "8", "-e", calls, "-o", str(trace)])
    sent = instances("mr", "strace", 12)
    sent += sent[:3]
    place = Place(door.port, "CURIE", "SCANNER")
    for part in (sent[:8], sent[8:]):
        association = Association(place, sent[0].sop_class_uid)
        assert [association.exchange(one) for one in encode(part, association.maximum)] == [0] * len(part)
        association.release()
    assert door.process is not None
    psutil.Process(door.process.pid).children()[0].terminate()
    door.process.wait(timeout=20)
    orders = [order_of(lines) for lines in by_thread(trace).values()]
    answered = [step for order in orders if order != [""] for step in order]  # C-ECHO has nothing to sync
    again = "known file link folder"  # our own file takes the place of the equal one, synced before it does
    assert answered == ["link file folder"] * 12 + [again] * 3


def by_thread(trace: Path) -> dict[str, list[str]]:
    """Return the trace's lines by thread, calls that were interrupted by others put together."""
    found: dict[str, list[str]] = {}
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", call)
        found.setdefault(thread, []).append(begun.pop(thread, "") + resumed[1] if resumed else call)
    return found


def order_of(lines: list[str]) -> list[str]:
    """Return for each C-STORE-RSP what was done since the one before: link or known name, file, folder."""
    steps: list[str] = []
    done: list[str] = []
    for line in lines:
        if line.startswith("link"):
            done.append("known" if "EEXIST" in line else "link")
        elif line.startswith("fsync"):
            target = re.search(r"<([^>]*)", line)
            assert target is not None
            assert line.endswith("= 0"), line
            done.append("folder" if re.search(r"/spool/[0-9a-f]{2}$", target[1]) else "file")
        elif re.match(r'sendto\(.*"\\4\\0', line):
            steps.append(" ".join(done))
            done = []
    return steps


def test_odd_files_are_accepted_byte_for_byte_and_the_unreadable_set_aside(open_door: Open) -> None:
    folder = Path(os.environ.get("CURIE_SHARED", "../shared"))
    folder = (folder if folder.is_absolute() else Path(__file__).parents[2] / folder) / "data" / "syntax_and_odd"
    if not folder.is_dir():
        absent(f"no odd files at {folder} (CURIE_SHARED)")
    door = open_door()
    digests = set()
    for file in sorted(folder.glob("*.dcm")):
        sop_class, uid, syntax, body = split(file)
        with RawPeer(("127.0.0.1", door.port)) as peer:
            peer.associate([(1, sop_class, [syntax])])
            asked = data(fragment(1, COMMAND | LAST, command(C_STORE, 1, sop_class, uid)))
            pieces = [body[at : at + 16000] for at in range(0, len(body), 16000)]
            peer.send(
                asked
                + b"".join(data(fragment(1, LAST if n == len(pieces) - 1 else 0, p)) for n, p in enumerate(pieces))
            )
            assert peer.status(1) == 0, file.name
        digest = hashlib.sha256(uid.encode()).hexdigest()
        assert any(kept.read_bytes().endswith(body) for kept in door.spool.glob(f"??/{digest}.*")), file.name
        digests.add(digest)
    assert len(digests) == 10
    wait_for("all rows", lambda: {Path(path).name[:64] for path in door.indexed()} >= digests, 60)
    aside = [line for line in door.log.read_text().splitlines() if "instance_set_aside" in line]
    assert aside
    assert all('"reason"' in line for line in aside)


def split(file: Path) -> tuple[str, str, str, bytes]:
    """Return SOP class, instance UID, transfer syntax and the data set's bytes of a Part 10 file."""
    meta = dcmread(file, force=True, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).file_meta
    content = file.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    uid = str(meta.MediaStorageSOPInstanceUID)
    return str(meta.MediaStorageSOPClassUID), uid, str(meta.TransferSyntaxUID), content[144 + length :]


def test_a_study_by_an_untuned_dcmtk_is_whole(open_door: Open, tmp_path: Path) -> None:
    door = open_door()
    sent = instances("mr", "dcmtk", 20)
    for number, one in enumerate(sent):
        write_part10(one, tmp_path / f"{number}.dcm")
    files = [str(tmp_path / f"{number}.dcm") for number in range(len(sent))]
    tool = ["storescu", "-aet", "SCANNER", "-aec", "CURIE", "127.0.0.1", str(door.port)]
    subprocess.run([*tool, *files], check=True)
    check_all_there(door, sent)
