"""The scanners of a hospital, each study over an association of its own, each image until it is acknowledged.

`python -m bench.load_senders PORT SECONDS SHARE` sends the plan of bench.hospital_day in real time and prints one JSON
line for each study when all of it was acknowledged; what was not, after a connection broke, goes again over another.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence

from bench.hospital_day import KINDS, Planned, instances, plan
from bench.pdus import Broken
from bench.replayer import Place, Replay

AGAIN_S = 1.0  # after a refusal or a broken connection
CALLING = "SCANNER"


def send(planned: Planned, port: int, due: float) -> dict[str, object]:
    """Send one study until every image is acknowledged, and say how it went. `due`: when it had to begin."""
    images = instances(planned)
    size, left, tries, latencies = sum(one.size for one in images), images, 0, list[float]()
    started = time.time()
    while left:
        tries += 1
        try:
            replay = Replay(Place(port, "CURIE", CALLING), left, 1)
        except (OSError, Broken):
            time.sleep(AGAIN_S)
            continue
        try:
            replay.run()
        except (OSError, Broken):
            time.sleep(AGAIN_S)
        latencies += replay.latencies
        answered = set(replay.acknowledged)
        left = [one for one in left if one.sop_instance_uid not in answered]
    return {
        "study": planned.study_instance_uid,
        "kind": planned.kind.name,
        "images": len(images),
        "bytes": size,
        "late_s": round(started - due, 3),
        "took_s": round(time.time() - started, 3),
        "tries": tries,
        "latencies_ms": [round(1000 * one, 2) for one in latencies],
    }


_printing = threading.Lock()


def _send_and_tell(planned: Planned, port: int, due: float) -> None:
    told = json.dumps(send(planned, port, due))
    with _printing:
        print(told, flush=True)


def run(studies: Sequence[Planned], port: int) -> None:
    """Send each study at its time, in a thread of its own."""
    began, threads = time.time(), []
    for planned in studies:
        due = began + planned.at_s
        time.sleep(max(0.0, due - time.time()))
        threads.append(threading.Thread(target=_send_and_tell, args=(planned, port, due)))
        threads[-1].start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    share = float(sys.argv[3])
    run(plan([kind.scaled(share) for kind in KINDS], float(sys.argv[2])), int(sys.argv[1]))
