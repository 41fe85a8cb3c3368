"""Judging storage commitment reports (PS3.4 Annex J). Nothing is believed that was not asked for, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_nodes.sender import Reference

NO_SUCH_OBJECT = 0x0112  # PS3.3 C.14.1.1


@dataclass(frozen=True)
class Verdict:
    """What a report says of the objects that were asked about."""

    committed: tuple[Reference, ...] = ()
    send_again: tuple[Reference, ...] = ()  # the destination does not hold them
    ask_again: tuple[tuple[Reference, int], ...] = ()  # it holds them and does not vouch, with the failure reason
    distrust: str = ""  # why the report as a whole is not believed


def judge(
    asked: Sequence[Reference],
    asked_of: str,
    said_by: str,
    stored: Sequence[Sequence[str]],
    failed: Sequence[Sequence[object]],
) -> Verdict:
    """Compare a report with the request. A report that adds, omits or swaps objects is not believed."""
    if said_by != asked_of:
        return Verdict(distrust=f"the report came from {said_by}, the request went to {asked_of}")
    good = [Reference(str(item[0]), str(item[1])) for item in stored]
    bad = {Reference(str(item[0]), str(item[1])): int(str(item[2])) for item in failed}
    named = [*good, *bad]
    if len(set(named)) != len(named) or set(named) != set(asked):
        return Verdict(distrust="the report names other objects than the request")
    return Verdict(
        committed=tuple(good),
        send_again=tuple(one for one, reason in bad.items() if reason == NO_SUCH_OBJECT),
        ask_again=tuple((one, reason) for one, reason in bad.items() if reason != NO_SUCH_OBJECT),
    )
