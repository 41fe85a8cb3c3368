"""The two ways in which results leave: C-STORE over an association, STOW-RS over HTTP. Both answer alike.

It must never decide what becomes of a parcel: it says what was answered, delivery judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from appliance.catalogue.outbox import Parcel
from appliance.errors import DeliveryFailed, Refused
from appliance.settings import Destination
from dicom_nodes import dicomweb, query, sender
from dicom_nodes.dicomweb import Shipment, Verdict


class Line(Protocol):
    """An open way to one destination."""

    def may_take(self, sop_class_uid: str) -> bool:
        """Return False where it is known that the destination takes none of this class."""

    def send(self, shipments: Iterable[Shipment]) -> Iterator[tuple[Shipment, Verdict]]:
        """Send, and yield what was answered of each. Raises Unreachable: then nothing is known of the rest."""


class Association:
    """C-STORE: each SOP class and transfer syntax was accepted or not before anything is sent."""

    def __init__(self, association: Any) -> None:
        self._association = association

    def may_take(self, sop_class_uid: str) -> bool:
        """Return whether a presentation context of this class was accepted."""
        return sender.accepts(self._association, sop_class_uid)

    def send(self, shipments: Iterable[Shipment]) -> Iterator[tuple[Shipment, Verdict]]:
        """Send one after the other."""
        for one in shipments:
            yield one, self._store(one)

    def _store(self, one: Shipment) -> Verdict:
        try:
            return sender.store(self._association, one.sop_class_uid, one.path)
        except Refused as refusal:
            return refusal


class Web:
    """STOW-RS: what a destination takes shows when it is sent."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def may_take(self, sop_class_uid: str) -> bool:  # noqa: ARG002
        """Return True: there is no asking before."""
        return True

    def send(self, shipments: Iterable[Shipment]) -> Iterator[tuple[Shipment, Verdict]]:
        """Send several to a request."""
        return dicomweb.store(self._destination, shipments)


@contextmanager
def open_line(destination: Destination, our_ae_title: str, parcels: Sequence[Parcel]) -> Iterator[Line]:
    """Open a way to a destination for these parcels. Raises Unreachable, or NotAccepted where it takes none of them."""
    if destination.url:
        yield Web(destination)
        return
    contexts = sender.storage_contexts([one.sop_class_uid for one in parcels])
    with sender.associate(destination, our_ae_title, contexts) as association:
        yield Association(association)


def probe(destination: Destination, our_ae_title: str, sop_class_uids: Sequence[str]) -> str:
    """Ask a destination whether it would take these classes; returns its answer in words. Raises DeliveryFailed."""
    if destination.url:
        return f"{dicomweb.probe(destination)}; what it stores shows when results come"
    sender.echo(destination, our_ae_title)
    wanted = sender.storage_contexts(sop_class_uids)
    wanted += [sender.commitment_context()] if destination.commits else []
    with sender.associate(destination, our_ae_title, wanted) as association:
        missing = sorted(
            {str(c.abstract_syntax.name) for c in wanted if not sender.accepts(association, c.abstract_syntax)}
        )
    if missing:
        raise DeliveryFailed(f"does not accept {', '.join(missing)}")
    accepted = "C-ECHO, storage and commitment accepted" if destination.commits else "C-ECHO and storage accepted"
    return f"{accepted}, {_found(destination, our_ae_title)}" if destination.find else accepted


def _found(destination: Destination, our_ae_title: str) -> str:
    try:
        return query.probe(destination, our_ae_title)
    except Refused as refusal:
        raise Refused(f"{refusal}. {query.remedy(our_ae_title)}") from None
