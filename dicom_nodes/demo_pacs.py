"""A small PACS for the demo and the tests: C-ECHO, C-STORE into a folder, storage commitment. Never for real use.

It keeps what it gets as `<SOP Instance UID>.dcm` and vouches only for what lies there. It reports commitment on a
new association to the address it was told (PS3.4 Annex J.3.3), or on the requesting one when it knows none.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from dicom_nodes.contexts import STORAGE_COMMITMENT_INSTANCE, is_uid

NO_SUCH_OBJECT = 0x0112
SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


class DemoPacs:
    """The listening AE and its folder."""

    def __init__(
        self, folder: Path, port: int, ae_title: str = "PACS", report_to: tuple[str, int] | None = None
    ) -> None:
        self.folder = folder
        self.port = port
        self.ae_title = ae_title
        self.report_to = report_to
        self._server: Any = None

    def start(self) -> None:
        """Listen on loopback."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=self.ae_title)
        ae.maximum_pdu_size = 131072
        ae.add_supported_context(Verification)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), SYNTAXES)
        events: list[Any] = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_N_ACTION, self._on_commit)]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=events)

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()

    def _on_store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if not is_uid(uid):
            return 0xC000
        part = self.folder / f".{uid}.part"
        part.write_bytes(event.encoded_dataset())
        part.rename(self.folder / f"{uid}.dcm")
        return 0x0000

    def _on_commit(self, event: Any) -> tuple[int, None]:
        request = event.action_information
        calling = str(event.assoc.requestor.ae_title).strip()
        report = self._report(request)
        number = 2 if report.get("FailedSOPSequence") else 1
        threading.Thread(target=self._send, args=(event.assoc, calling, number, report), daemon=True).start()
        return 0x0000, None

    def _report(self, request: Dataset) -> Dataset:
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        held, missing = [], []
        for item in request.ReferencedSOPSequence:
            reference = Dataset()
            reference.ReferencedSOPClassUID = item.ReferencedSOPClassUID
            reference.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
            if (self.folder / f"{item.ReferencedSOPInstanceUID}.dcm").exists():
                held.append(reference)
            else:
                reference.FailureReason = NO_SUCH_OBJECT
                missing.append(reference)
        report.ReferencedSOPSequence = held
        if missing:
            report.FailedSOPSequence = missing
        return report

    def _send(self, requesting: Any, calling: str, number: int, report: Dataset) -> None:
        time.sleep(0.05)  # let the N-ACTION response leave first
        if self.report_to is None:
            requesting.send_n_event_report(report, number, StorageCommitmentPushModel, STORAGE_COMMITMENT_INSTANCE)
            return
        ae = AE(ae_title=self.ae_title)
        association = ae.associate(
            *self.report_to,
            contexts=[build_context(StorageCommitmentPushModel)],
            ae_title=calling,
            ext_neg=[build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)],
        )
        if association.is_established:
            association.send_n_event_report(report, number, StorageCommitmentPushModel, STORAGE_COMMITMENT_INSTANCE)
            association.release()


def main() -> None:
    """Run until SIGTERM: `python -m dicom_nodes.demo_pacs FOLDER PORT [--report-to PORT]`."""
    parser = argparse.ArgumentParser(description="A small PACS on loopback for demonstrations.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--ae-title", default="PACS")
    parser.add_argument("--report-to", type=int, default=None, help="port on which to report commitment")
    given = parser.parse_args()
    report_to = ("127.0.0.1", given.report_to) if given.report_to else None
    pacs = DemoPacs(given.folder, given.port, given.ae_title, report_to)
    pacs.start()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    pacs.stop()


if __name__ == "__main__":
    main()
