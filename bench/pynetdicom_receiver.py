"""Stock pynetdicom as a Storage SCP, with the public settings that a competent user would choose. Not durable.

A peer of the benchmark: it must never be tuned beyond pynetdicom's own interface, nor used as a receiver.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pynetdicom import AE, StoragePresentationContexts, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]


def keep(event: Any, folder: Path) -> int:
    """Write one instance as a DICOM file under a temporary name, then rename it."""
    part = folder / f"{event.request.AffectedSOPInstanceUID}.part"
    part.write_bytes(event.encoded_dataset())
    os.rename(part, part.with_suffix(".dcm"))
    return 0x0000


def main() -> None:
    """Listen on the port given; write into the folder given."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    ae = AE(ae_title="PYNETDICOM")
    ae.maximum_pdu_size = 131072
    ae.maximum_associations = 64
    ae.supported_contexts = StoragePresentationContexts
    ae.add_supported_context(Verification)
    listening = ("127.0.0.1", int(sys.argv[1]))
    ae.start_server(listening, evt_handlers=[(evt.EVT_C_STORE, keep, [Path(sys.argv[2])])])


if __name__ == "__main__":
    main()
