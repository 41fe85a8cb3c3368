"""What a receiver that died left behind: files and messages that were acknowledged and have no rows.

A scan of the spool, at the start of the indexer and when an accepting process died. It may find what is on its way
already; that is then written once.
"""

from __future__ import annotations

from appliance.catalogue import Catalogue, receiving, retention
from appliance.log import logger
from dicom_nodes.arrivals import Arrival, FileKept, MessageKept
from dicom_nodes.spool import Spool


def left_behind(catalogue: Catalogue, spool: Spool) -> list[Arrival]:
    """Return files and messages without rows, whole ones; torn ones are set aside."""
    with catalogue.read() as connection:
        known = receiving.paths_known(connection)
    paths = _without_removed(catalogue, spool, [path for path in spool.files() if path not in known])
    told = [path for path in spool.messages() if _is_whole(spool, path)]
    found: list[Arrival] = [FileKept(path, adopted=True) for path in paths if _is_whole(spool, path)]
    return found + [MessageKept(path) for path in sorted(told, key=lambda path: _age(spool, path))]


def set_aside(spool: Spool, path: str, reason: str) -> None:
    """Move a file out of the way, and say why."""
    try:
        spool.set_aside(path)
    except FileNotFoundError:
        return  # it was told twice, and is done
    logger().error("file_set_aside", file=path, reason=reason)


def _without_removed(catalogue: Catalogue, spool: Spool, paths: list[str]) -> list[str]:
    """Finish what retention began: a file that was to go, and did not come again since, goes."""
    with catalogue.read() as connection:
        removed = retention.removed_among(connection, paths)
    left = []
    for path in paths:
        if path in removed and _age(spool, path) <= removed[path].timestamp() * 1e9 + 1e9:
            spool.remove(path)
        else:
            left.append(path)
    return left


def _age(spool: Spool, path: str) -> int:
    try:
        return (spool.folder / path).stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # written and dropped meanwhile


def _is_whole(spool: Spool, path: str) -> bool:
    try:
        if spool.is_whole(path):
            return True
    except FileNotFoundError:
        return False  # written and dropped meanwhile
    except OSError as error:
        logger().error("file_not_readable", file=path, cause=error.strerror)
        return False  # the next scan asks again
    set_aside(spool, path, "it is torn")
    return False
