"""Our Storage SCP. It answers 0x0000 to a C-STORE only when the bytes are durable, and never interprets pixels.

Unknown calling AE titles are refused unless the settings accept them; a destination that is no source may verify
and report storage commitment, nothing more. Rejections follow PS3.8 Section 9.3.4.
"""

from __future__ import annotations

import ipaddress
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from appliance.catalogue import Catalogue, outbox
from appliance.catalogue.connection import now
from appliance.errors import InstanceRefused, Missing
from appliance.log import logger
from appliance.settings import Settings, Source
from dicom_nodes.contexts import STORAGE_COMMITMENT, VERIFICATION, choose_syntax
from dicom_nodes.indexer import AssociationEnded, AssociationOpened, FileKept, Indexer
from dicom_nodes.spool import GIB, Spool

MAXIMUM_PDU = 131072  # bytes; what DCMTK's tools can use
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
# (result, source, diagnostic) of A-ASSOCIATE-RJ, PS3.8 Table 9-21
CALLING_AE_UNKNOWN = (0x01, 0x01, 0x03)
LOCAL_LIMIT = (0x02, 0x03, 0x02)


@dataclass(frozen=True)
class Peer:
    """The other end of an open association."""

    id: str
    ae_title: str
    address: str


class Receiver:
    """The listening AE, its spool and its indexer."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.spool = Spool(settings.spool_dir, settings.spool.reserve_gb)
        self.indexer = Indexer(catalogue, self.spool)
        self.refused: dict[str, int] = {}
        self._known: dict[Any, Peer] = {}  # open associations
        self._lock = threading.Lock()
        self._server: Any = None
        self._lock_file: Any = None

    def start(self) -> None:
        """Adopt what a crash left, then listen. Raises Missing when the port is taken."""
        self._lock_file = self.spool.claim()
        self.spool.prepare()
        self.indexer.start()
        adopted = self.indexer.adopt()
        if adopted:
            logger().info("files_adopted", count=adopted)
        self._server = self._listen()

    def _listen(self) -> Any:
        _config.UNRESTRICTED_STORAGE_SERVICE = True  # private storage classes too; see _on_requested
        place = self.settings.receiver
        ae = AE(ae_title=place.ae_title)
        ae.maximum_pdu_size = MAXIMUM_PDU
        ae.maximum_associations = place.max_associations
        ae.require_called_aet = True
        ae.network_timeout = 300
        ae.add_supported_context(Verification)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        try:
            return ae.start_server((place.host, place.port), block=False, evt_handlers=self._event_table())
        except OSError as error:
            raise Missing(
                f"cannot listen on {place.host} port {place.port}: {error.strerror}; "
                "free the port or change receiver.port"
            ) from None

    def _event_table(self) -> list[Any]:
        return [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_broken),
            (evt.EVT_CONN_CLOSE, self._on_broken),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),  # noqa: ARG005
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
        ]

    def stop(self) -> None:
        """Stop listening, end associations, index what was acknowledged."""
        if self._server is not None:
            self._server.shutdown()
        self.indexer.close()
        if self._lock_file is not None:
            self._lock_file.close()

    # --- association ---

    def _on_requested(self, event: Any) -> None:
        """Refuse the unknown; fix each storage context's transfer syntax before negotiation."""
        association = event.assoc
        calling = str(association.requestor.primitive.calling_ae_title).strip()
        address = str(association.requestor.address)
        rejection, reason = self._judge(calling, address)
        if rejection:
            self._refuse(association, rejection, reason, address)
            return
        may_store = self.may_store(calling, address)
        for context in association.requestor.primitive.presentation_context_definition_list:
            self._narrow(context, may_store)

    def _judge(self, calling: str, address: str) -> tuple[tuple[int, int, int] | None, str]:
        if not self.may_store(calling, address) and not self._may_verify(calling, address):
            return CALLING_AE_UNKNOWN, "unknown source"
        with self._lock:
            peers = list(self._known.values())
        limits = self.settings.receiver
        if sum(peer.ae_title == calling for peer in peers) >= limits.max_associations_per_source:
            return LOCAL_LIMIT, "too many associations of this source"
        from_there = sum(peer.address == address for peer in peers)
        if not self._is_listed(calling) and from_there >= limits.max_associations_per_address:
            return LOCAL_LIMIT, "too many associations of this address"
        if self.spool.is_low() and not self._may_verify(calling, address):
            return LOCAL_LIMIT, "free space is below spool.reserve_gb"
        return None, ""

    def _refuse(self, association: Any, rejection: tuple[int, int, int], reason: str, address: str) -> None:
        self._count(reason)
        logger().warning("association_refused", reason=reason, address=address)
        association.acse.send_reject(*rejection)
        association.kill()

    def _count(self, reason: str) -> None:
        with self._lock:
            self.refused[reason] = self.refused.get(reason, 0) + 1

    def may_store(self, calling: str, address: str) -> bool:
        """Return whether this AE title may send instances from this address."""
        if any(one.ae_title == calling and _from_allowed(one, address) for one in self.settings.sources):
            return True
        return not self._is_listed(calling) and self.settings.receiver.unknown_sources == "accept"

    def _is_listed(self, calling: str) -> bool:
        return any(one.ae_title == calling for one in self.settings.sources)

    def _may_verify(self, calling: str, address: str) -> bool:
        """Destinations may send C-ECHO and reports; so may our own checks from this host."""
        ourselves = calling == self.settings.receiver.ae_title and ipaddress.ip_address(address).is_loopback
        return ourselves or self._is_destination(calling)

    def _is_destination(self, calling: str) -> bool:
        return any(one.ae_title == calling for one in self.settings.destinations)

    @staticmethod
    def _narrow(context: Any, may_store: bool) -> None:
        """Leave one transfer syntax in a storage context; turn one that is not allowed into a refusal."""
        if context.abstract_syntax in (VERIFICATION, STORAGE_COMMITMENT):
            return
        chosen = choose_syntax([str(syntax) for syntax in context.transfer_syntax]) if may_store else None
        if chosen is not None:
            context.transfer_syntax = [chosen]
            return
        # Verification without a syntax it supports: answered "transfer syntaxes not supported" (result 4)
        context.abstract_syntax = VERIFICATION
        context.transfer_syntax = [JPEG_LOSSLESS]

    def _on_established(self, event: Any) -> None:
        association = event.assoc
        requestor = association.requestor
        peer = Peer(str(uuid.uuid4()), str(requestor.ae_title).strip(), str(requestor.address))
        with self._lock:
            self._known[association] = peer
        self.indexer.put(AssociationOpened(peer.id, peer.ae_title, peer.address))

    def _on_released(self, event: Any) -> None:
        self._ended(event.assoc, aborted=False)

    def _on_broken(self, event: Any) -> None:
        self._ended(event.assoc, aborted=True)

    def _ended(self, association: Any, aborted: bool) -> None:
        with self._lock:
            peer = self._known.pop(association, None)
        if peer is not None:
            self.indexer.put(AssociationEnded(peer.id, aborted))

    # --- messages ---

    def _on_store(self, event: Any) -> int:
        """Answer one C-STORE-RQ (PS3.4 Annex B.2.3): 0x0000 after the bytes are durable."""
        try:
            content = event.encoded_dataset()
            if len(content) > self.settings.receiver.max_instance_gb * GIB:
                raise InstanceRefused("larger than receiver.max_instance_gb", InstanceRefused.OUT_OF_STORAGE)
            kept = self.spool.keep(str(event.request.AffectedSOPInstanceUID), content)
        except InstanceRefused as refusal:
            self._count(str(refusal))
            logger().warning("instance_refused", reason=str(refusal), status=f"0x{refusal.status:04X}")
            return refusal.status
        except Exception as error:  # noqa: BLE001 - the edge: whatever breaks, the peer gets a failure status
            logger().error("store_failed", cause=type(error).__name__)
            return PROCESSING_FAILURE
        peer = self._known.get(event.assoc)  # None: it went away while its bytes were synced
        self.indexer.put(FileKept(kept.path, peer.id if peer else ""))
        return SUCCESS

    def _on_report(self, event: Any) -> tuple[int, None]:
        """Keep a storage commitment report (PS3.4 Annex J.3.3) before it is acknowledged."""
        try:
            keep_report(self.catalogue, event, str(event.assoc.requestor.ae_title).strip())
        except Exception as error:  # noqa: BLE001 - the edge: a report that was not kept is not acknowledged
            logger().error("commitment_report_failed", cause=type(error).__name__)
            return PROCESSING_FAILURE, None
        return SUCCESS, None


def keep_report(catalogue: Catalogue, event: Any, ae_title: str) -> None:
    """Write one N-EVENT-REPORT of Storage Commitment into the catalogue."""
    report = event.event_information
    stored = [
        (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
        for item in report.get("ReferencedSOPSequence") or []
    ]
    failed = [
        (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID), int(item.get("FailureReason") or 0))
        for item in report.get("FailedSOPSequence") or []
    ]
    with catalogue.write() as connection:
        outbox.add_report(connection, str(report.TransactionUID), ae_title, stored, failed, now())


def _from_allowed(source: Source, address: str) -> bool:
    if not source.hosts:
        return True
    peer = ipaddress.ip_address(address)
    return any(peer in ipaddress.ip_network(one, strict=False) for one in source.hosts)
