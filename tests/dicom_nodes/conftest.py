"""An accepting receiver in this process, on a free port of loopback, with what it told collected."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.settings import Settings, parse
from dicom_nodes.acceptor import Acceptor
from dicom_nodes.arrivals import Arrival, AssociationEnded, FileKept
from dicom_nodes.places import Limits, Places
from dicom_nodes.receiver import listen, listen_for_stow
from dicom_nodes.spool import Spool
from dicom_nodes.stow_door import StowDoor
from tests.web_peer import Answer, body, post

SETTINGS = """
[receiver]
host = "127.0.0.1"
port = {port}
{more}
[[sources]]
ae_title = "SCANNER"
hosts = ["127.0.0.0/8"]
[[sources]]
ae_title = "ELSEWHERE"
hosts = ["10.0.0.0/8"]
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
[spool]
reserve_gb = 0
"""


class OpenDoor:
    """An acceptor and what it told."""

    def __init__(self, settings: Settings) -> None:
        place = settings.receiver
        self.settings = settings
        self.spool = Spool(settings.spool_dir, settings.spool.reserve_gb)
        self.spool.prepare()
        self.told: list[Arrival] = []
        limits = Limits(place.max_associations, place.max_associations_per_source, place.max_associations_per_address)
        self.places = Places(limits)
        self.acceptor = Acceptor(settings, self.spool, self.places, self.told.append)
        self.listeners = listen(settings)
        self.acceptor.start(self.listeners)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.settings.receiver.host, self.settings.receiver.port

    def kept(self) -> list[bytes]:
        """Return the contents of the files it kept, in order."""
        return [(self.spool.folder / one.path).read_bytes() for one in self.told if isinstance(one, FileKept)]

    def wait(self, found: Callable[[], Any], seconds: float = 5) -> Any:
        """Return the first true answer."""
        deadline = time.monotonic() + seconds
        while not (answer := found()):
            assert time.monotonic() < deadline, f"not within {seconds} s; told {self.told}"
            time.sleep(0.01)
        return answer

    def close(self) -> None:
        """Stop it."""
        self.acceptor.stop()
        for listener, _ in self.listeners:
            listener.close()
        self.places.close()


@pytest.fixture
def open_door(tmp_path: Path, free_port: int) -> Iterator[Callable[..., OpenDoor]]:
    """Return a function that opens a receiver; `more` are lines of [receiver]."""
    opened: list[OpenDoor] = []

    def start(more: str = "", text: str = SETTINGS) -> OpenDoor:
        door = OpenDoor(parse(text.format(port=free_port, more=more), tmp_path / "curie.toml"))
        opened.append(door)
        return door

    yield start
    for one in opened:
        one.close()


class Second:
    """An acceptor with its HTTP door."""

    def __init__(self, door: OpenDoor) -> None:
        self.door = door
        self.port = door.settings.receiver.stow_port
        (self.listener, tls), *_ = listen_for_stow(door.settings)
        self.server = StowDoor(door.acceptor, self.listener, tls)
        self.server.start()

    def post(self, *files: bytes, path: str = "/studies") -> Answer:
        """Store files."""
        return post(self.port, body(files), path)

    def is_clean(self) -> bool:
        """Return whether no place is taken and no part is left."""
        from tests.dicom_nodes.test_dimse import parts  # which imports this module

        return self.door.places.count() == 0 and parts(self.door) == []

    def ended(self) -> AssociationEnded:
        """Return the end of the only request."""
        return self.door.wait(lambda: next((o for o in self.door.told if isinstance(o, AssociationEnded)), None))

    def close(self) -> None:
        """Stop it."""
        self.server.stop()
        self.listener.close()


@pytest.fixture
def stow_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def open_second(open_door: Callable[..., OpenDoor], stow_port: int) -> Iterator[Callable[..., Second]]:
    """Return a function that opens both doors."""
    opened: list[Second] = []

    def start(more: str = "", text: str = SETTINGS) -> Second:
        opened.append(Second(open_door(f"stow = true\nstow_port = {stow_port}\n{more}", text)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def second(open_second: Callable[..., Second]) -> Second:
    return open_second()
