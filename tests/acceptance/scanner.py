"""A scanner that sends each image until it is acknowledged, and says which were: `python -m … HOST PORT FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from appliance.errors import DeliveryFailed
from dicom_nodes import sender
from dicom_nodes.sender import Peer, Timeouts

PAUSE_S = 0.02  # between two images


def main(host: str, port: int, folder: Path) -> None:
    """Send what is in a folder, in order; what was not acknowledged goes again, over another association."""
    left = sorted(folder.glob("*.dcm"))
    peer = Peer("curie", "CURIE", host, port)
    while left:
        try:
            with sender.associate(peer, "SCANNER", sender.series_contexts(left[:1]), timeouts=Timeouts(2, 10, 5)) as to:
                while left:
                    sender.store_as_is(to, left[0])
                    print(left.pop(0).name, flush=True)
                    time.sleep(PAUSE_S)
        except DeliveryFailed as error:
            print("again:", error, file=sys.stderr, flush=True)
            time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
