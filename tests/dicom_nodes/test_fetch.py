"""C-GET from a real source into a real receiver: what is kept is what was sent, and nobody is told more than that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from appliance.errors import Missing, NotAccepted, Refused, Unreachable
from dicom_nodes import fetch
from dicom_nodes.arrivals import AssociationOpened
from dicom_nodes.contexts import DEFLATED, choose_syntax
from dicom_nodes.sender import MOST_CONTEXTS, Peer
from tests.dicom_nodes.conftest import SETTINGS, OpenDoor
from tests.phantoms import CT, MR, Phantom, part10, series

STUDY = "2.25.1914"
OURS = SETTINGS + '[[sources]]\nae_title = "CURIE"\nhosts = ["127.0.0.1"]\n'
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
Door = Callable[..., OpenDoor]


@dataclass
class Source:
    """A PACS that answers C-FIND and C-GET, and remembers what it was told."""

    files: list[bytes]
    named: Sequence[str] = ()  # SOP Classes in Study
    pause_s: float = 0.0  # before each instance
    asked: int = 0
    statuses: list[int] = field(default_factory=list)
    before: Callable[[int], None] = lambda number: None

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        answer = Dataset()
        answer.QueryRetrieveLevel, answer.StudyInstanceUID = "STUDY", event.identifier.StudyInstanceUID
        if self.named:
            answer.SOPClassesInStudy = list(self.named)
        yield 0xFF00, answer

    def get(self, event: Any) -> Iterator[Any]:
        self.asked += 1
        yield len(self.files)
        for number, content in enumerate(self.files):
            time.sleep(self.pause_s)
            self.before(number)
            yield 0xFF00, dcmread(BytesIO(content))

    def heard(self, event: Any) -> None:
        if type(event.message).__name__ == "C_STORE_RSP":
            self.statuses.append(int(event.message.command_set.Status))

    def serve(self, port: int, *, gets: bool = True, sends: bool = True) -> Any:
        """Start; `gets`: it knows C-GET; `sends`: it lets the other side be SCP of storage."""
        ae = AE(ae_title="PACS")
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if gets:
            ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        for uid in (CT, MR, DOSE_REPORT):
            roles = {"scu_role": False, "scp_role": True} if sends else {}
            ae.add_supported_context(uid, list(fetch.SYNTAXES), **roles)
        handlers = [(evt.EVT_C_FIND, self.find), (evt.EVT_C_GET, self.get), (evt.EVT_DIMSE_RECV, self.heard)]
        return ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)


@pytest.fixture
def serve(stow_port: int) -> Iterator[Callable[..., Peer]]:
    """Return a function that starts a source and says where it is."""
    servers: list[Any] = []

    def start(source: Source, **how: bool) -> Peer:
        servers.append(source.serve(stow_port, **how))
        return Peer("PACS", "PACS", "127.0.0.1", stow_port)

    yield start
    for one in servers:
        one.shutdown()


def images(syntax: str = "explicit", count: int = 3) -> list[bytes]:
    return [part10(ds, syntax) for ds in series(Phantom(slices=count))]


def dataset_of(file: bytes) -> bytes:
    """Return the bytes behind the File Meta Information."""
    start = 144 + int.from_bytes(file[140:144], "little")
    return file[start:]


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "rle", "j2k", "big"])
def test_what_is_kept_is_what_was_sent_to_the_byte(open_door: Door, serve: Any, syntax: str) -> None:
    door, source = open_door(text=OURS), Source(images(syntax), [MR])
    moved = fetch.get(door.settings, serve(source), STUDY)
    assert (moved.completed, moved.failed) == (3, 0)
    assert source.statuses == [0, 0, 0]
    door.wait(lambda: len(door.kept()) == 3)
    for kept, sent in zip(door.kept(), source.files, strict=True):
        assert dataset_of(kept) == dataset_of(sent)
        assert dcmread(BytesIO(kept)).file_meta.TransferSyntaxUID == dcmread(BytesIO(sent)).file_meta.TransferSyntaxUID
    assert [one.name for one in door.settings.data_dir.iterdir()] == ["spool"]


def test_a_source_that_names_no_classes_is_asked_for_the_usual_ones(open_door: Door, serve: Any) -> None:
    door, source = open_door(text=OURS), Source(images("j2k"))
    assert fetch.get(door.settings, serve(source), STUDY).completed == 3


@pytest.mark.parametrize("title", ["CURIE", "CURIE_OUT"])
def test_a_receiver_that_does_not_take_our_images_is_told_of_before_any_is_asked_for(
    open_door: Door, serve: Any, title: str
) -> None:
    door, source = open_door(text=SETTINGS + f'[sender]\nae_title = "{title}"\n'), Source(images(), [MR])
    entry = rf'add \[\[sources\]\] with ae_title = "{title}" and hosts = \["127.0.0.1"\]'
    with pytest.raises(Missing, match=entry):
        fetch.get(door.settings, serve(source), STUDY)
    assert source.asked == 0


def test_the_source_hears_what_our_receiver_refuses(open_door: Door, serve: Any) -> None:
    sizes = ((1, 30), (2, 60))  # the second kind is larger than 5 KB
    files = [part10(ds, "explicit") for n, side in sizes for ds in series(Phantom(slices=n, rows=side, columns=side))]
    door, source = open_door("max_instance_gb = 0.000005", OURS), Source(files, [MR])
    with pytest.raises(Refused, match="kept 1 and refused 2 with status 0xA700"):
        fetch.get(door.settings, serve(source), STUDY)
    assert source.statuses == [0, 0xA700, 0xA700]
    assert len(door.kept()) == 1


def test_one_that_our_receiver_breaks_off_at_holds_up_no_other(open_door: Door, serve: Any) -> None:
    huge = series(Phantom(slices=1, rows=400, columns=400))
    files = [part10(huge[0], "explicit"), *images(count=2)]
    door, source = open_door("max_instance_gb = 0.000005", OURS), Source(files, [MR])
    with pytest.raises(Refused, match="kept 2 and refused 1 with status 0x0110"):
        fetch.get(door.settings, serve(source), STUDY)
    assert source.statuses == [0x0110, 0, 0]


def test_nothing_counts_once_our_receiver_is_gone(open_door: Door, serve: Any) -> None:
    door, source = open_door(text=OURS), Source(images(count=4), [MR])
    source.before = lambda number: door.close() if number == 2 else None
    with pytest.raises(Unreachable):
        fetch.get(door.settings, serve(source), STUDY)
    assert source.statuses[:2] == [0, 0]
    assert 0 not in source.statuses[2:]
    assert len(door.kept()) == 2


def test_a_source_that_is_slower_than_our_receiver_waits(
    open_door: Door, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "IDLE_S", 0.2)
    door, source = open_door(text=OURS), Source(images(), [MR], pause_s=0.15)
    assert fetch.get(door.settings, serve(source), STUDY).completed == 3
    assert sum(isinstance(one, AssociationOpened) for one in door.told) > 1


def test_what_the_source_could_not_send_has_failed(open_door: Door, serve: Any) -> None:
    other = [part10(ds, "explicit") for ds in series(Phantom(slices=2, rows=16, columns=16, sop_class=CT))]
    door, source = open_door(text=OURS), Source([*images(), *other], [MR])
    moved = fetch.get(door.settings, serve(source), STUDY)
    assert (moved.completed, moved.failed) == (3, 2)


@pytest.mark.parametrize(
    ("how", "reason"), [({"gets": False}, "does not accept C-GET"), ({"sends": False}, "in the role that it needs")]
)
def test_a_source_that_cannot_is_told_of(open_door: Door, serve: Any, how: dict[str, bool], reason: str) -> None:
    with pytest.raises(NotAccepted, match=reason):
        fetch.get(open_door(text=OURS).settings, serve(Source(images(), [MR]), **how), STUDY)


def test_what_is_asked_for_fits_an_association_and_is_what_we_take() -> None:
    many = [f"{CT}.{number}" for number in range(300)]
    for named in ([], [CT], [CT, MR, DOSE_REPORT], many):
        assert 0 < len(fetch.wanted(named)) < MOST_CONTEXTS
    assert {syntax for _, syntax in fetch.wanted([DOSE_REPORT])} == set(fetch.SYNTAXES)
    assert all(choose_syntax([one]) == one for one in fetch.SYNTAXES)
    assert not DEFLATED & set(fetch.SYNTAXES)
    assert {uid for uid, _ in fetch.wanted([])} == set(fetch.USUAL)
    assert len({syntax for uid, syntax in fetch.wanted([]) if uid == MR}) >= 9
