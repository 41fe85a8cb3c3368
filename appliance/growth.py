"""How much a tracked finding grew since an earlier study. Arithmetic only: the numbers come in, sentences go out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date

from appliance.finding import PERCENT, VOLUME, Code, Finding, Measurement
from appliance.job import Prior

OWN_CODES = "99PCURIE"  # no standard scheme codes these two
RELATIVE_CHANGE = Code("PC0001", OWN_CODES, "Relative change of volume since prior study")
DOUBLING_TIME = Code("PC0002", OWN_CODES, "Volume doubling time since prior study")
DAY = Code("d", "UCUM", "day")
LEAST_ML = 1e-6
LEAST_CHANGE = 0.01  # a share below which a doubling time says nothing


def prior_of(finding: Finding, priors: Sequence[Prior]) -> tuple[Prior, float] | None:
    """Return what an earlier study says of this finding, and its volume then, in ml."""
    for one in priors:
        if one.tracking_uid == finding.tracking_uid:
            for code, unit, value in one.values:
                if (code, unit) == (VOLUME.value, "ml") and value > LEAST_ML:
                    return one, value
    return None


def volume_of(finding: Finding) -> float | None:
    """Return the finding's volume in ml, None where it was not measured."""
    return next((one.value for one in finding.measurements if one.name == VOLUME), None)


def changes(finding: Finding, priors: Sequence[Prior], study_date: str) -> list[Measurement]:
    """Return relative change (%) and doubling time (days, of what grew) of the volume since the prior study."""
    before, now_ml = prior_of(finding, priors), volume_of(finding)
    if before is None or now_ml is None:
        return []
    share = now_ml / before[1] - 1
    found = [Measurement(RELATIVE_CHANGE, 100 * share, PERCENT)]
    days = days_between(before[0].study_date, study_date)
    if days and share > LEAST_CHANGE:
        found.append(Measurement(DOUBLING_TIME, days * math.log(2) / math.log1p(share), DAY))
    return found


def sentence_of(finding: Finding, priors: Sequence[Prior], study_date: str) -> str:
    """Return one sentence that compares with the prior study, or nothing."""
    before, now_ml = prior_of(finding, priors), volume_of(finding)
    if before is None or now_ml is None:
        return ""
    prior, before_ml = before
    told = changes(finding, priors, study_date)
    doubling = f", doubling time {told[1].value:.0f} days" if len(told) > 1 else ""
    day = f"{prior.study_date[:4]}-{prior.study_date[4:6]}-{prior.study_date[6:]}" if prior.study_date else "before"
    return f"{finding.name}: {now_ml:.2f} ml, {before_ml:.2f} ml on {day} ({told[0].value:+.1f} %{doubling})."


def days_between(earlier: str, later: str) -> int:
    """Return the days from one DICOM date to another, 0 where one is unknown or they are out of order."""
    try:
        return max(0, (date.fromisoformat(later) - date.fromisoformat(earlier)).days)
    except ValueError:
        return 0
