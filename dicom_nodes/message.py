"""N-service requests that the receiver acknowledged, as durable files of the spool.

A storage commitment report, a performed procedure step or a notification of availability lies in `message/` of the
spool before it is answered with 0x0000, and goes when its rows are committed. What it says is read in `announcement`.
Nothing here may trust the content: whatever a dataset does to its reader becomes a ValueError with a reason, and no
reason quotes a value.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_dataset

from dicom_nodes.contexts import EXPLICIT_LE, IMPLICIT_LE

LARGEST_BYTES = 4 << 20
ENCODINGS = {IMPLICIT_LE: (True, True), EXPLICIT_LE: (False, True), "1.2.840.10008.1.2.2": (False, False)}


@dataclass(frozen=True)
class Message:
    """An N-service request that the receiver acknowledged: who sent what. Its dataset is still encoded."""

    command: str  # N-EVENT-REPORT, N-CREATE or N-SET
    sop_class_uid: str
    sop_instance_uid: str
    event_type: int | None  # Event Type ID of an N-EVENT-REPORT (PS3.7 Section 10.3.1)
    transfer_syntax_uid: str
    calling_ae_title: str
    address: str
    received_at: str  # ISO 8601, UTC
    dataset: bytes

    def encode(self) -> bytes:
        """Return one JSON line, then the dataset's bytes."""
        head = {key: value for key, value in asdict(self).items() if key != "dataset"}
        return json.dumps(head, separators=(",", ":")).encode() + b"\n" + self.dataset

    @classmethod
    def decode(cls, content: bytes) -> Message:
        """Return what `encode` wrote. Raises ValueError."""
        line, newline, dataset = content.partition(b"\n")
        try:
            head = json.loads(line)
            message = cls(**head, dataset=dataset)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError("its first line is not that of a message") from error
        texts = [value for key, value in head.items() if key != "event_type"]
        numbered = message.event_type is None or type(message.event_type) is int
        if not newline or not numbered or not all(isinstance(value, str) for value in texts):
            raise ValueError("its first line is not that of a message")
        return message


def read_message(folder: Path, path: str) -> Message:
    """Return a message of the spool `folder`. Raises ValueError with a reason, FileNotFoundError when it is gone."""
    if (folder / path).stat().st_size > LARGEST_BYTES:
        raise ValueError(f"larger than {LARGEST_BYTES} bytes")
    return Message.decode((folder / path).read_bytes())


def read_dataset_of(message: Message) -> Dataset:
    """Return the dataset of a message, its values as received. Raises ValueError with a reason.

    Deflated datasets are not inflated: 1 MB may become 1 GB.
    """
    if message.transfer_syntax_uid not in ENCODINGS:
        raise ValueError("its transfer syntax is not one of the uncompressed ones")
    implicit, little = ENCODINGS[message.transfer_syntax_uid]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's texts quote values
        try:
            return read_dataset(BytesIO(message.dataset), implicit, little)
        except Exception as error:  # whatever pydicom raises, deep recursion too
            raise ValueError(f"its dataset cannot be read ({type(error).__name__})") from error
