"""A peer that turns us down is told with its reason, however fast it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from pynetdicom import transport

from appliance.errors import NotKnown, Unreachable
from dicom_nodes import sender
from dicom_nodes.sender import Peer
from tests.dicom_nodes.conftest import OpenDoor

Door = Callable[..., OpenDoor]


class Late(threading.Event):
    """An event after which pynetdicom's thread comes late, as on a busy machine: the answer was there before."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, and then some more."""
        came = super().wait(timeout)
        time.sleep(0.3)
        return came


@pytest.fixture(params=["in time", "late"])
def looking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """pynetdicom looks whether it is connected before the answer came, or after it."""
    if request.param == "late":
        begun = transport.AssociationSocket.__init__

        def begin(self: Any, *words: Any, **more: Any) -> None:
            begun(self, *words, **more)
            self._ready = Late()

        monkeypatch.setattr(transport.AssociationSocket, "__init__", begin)


def peer(door: OpenDoor) -> Peer:
    host, port = door.address
    return Peer("pacs", "CURIE", host, port)


@pytest.mark.usefixtures("looking")
def test_who_does_not_know_us_is_told_apart(open_door: Door) -> None:
    with pytest.raises(NotKnown, match="does not know our AE title"):
        sender.echo(peer(open_door()), "STRANGER")


@pytest.mark.usefixtures("looking")
def test_another_reason_is_said(open_door: Door) -> None:
    door = open_door()
    wrong = Peer("pacs", "OTHER", *door.address)
    with pytest.raises(Unreachable, match="does not call itself by that AE title"):
        sender.echo(wrong, "SCANNER")


def test_nobody_there_is_no_refusal(free_port: int) -> None:
    with pytest.raises(Unreachable, match="does not answer") as found:
        sender.echo(Peer("pacs", "CURIE", "127.0.0.1", free_port), "SCANNER")
    assert not isinstance(found.value, NotKnown)
