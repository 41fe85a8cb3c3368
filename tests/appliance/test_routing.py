"""Routing decides on attributes and geometry, and gives every study × route an outcome with a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.routing import attribute_matches, decide
from appliance.study import Condition, FrameGeometry, Preference, SeriesRequirement, SeriesSummary, StudySummary

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
NEED = SeriesRequirement(
    modality="MR",
    sop_class_uids=(MR,),
    min_slices=10,
    slice_spacing_mm=(0.5, 6.0),
    pixel_spacing_mm=(0.3, 2.0),
    min_extent_mm=60.0,
    exclude_image_types=("LOCALIZER",),
    prefer=(Preference("SeriesDescription", "t1|mprage"),),
)
INPUTS = {"image": NEED}


def planes(
    count: int = 40, step: float = 3.0, pixel: float = 1.0, drop: tuple[int, ...] = ()
) -> tuple[FrameGeometry, ...]:
    return tuple(
        FrameGeometry(f"1.{k}", 128, 128, (0.0, 0.0, k * step), (1, 0, 0, 0, 1, 0), (pixel, pixel))
        for k in range(count)
        if k not in drop
    )


def series(uid: str = "1.2", geometry: tuple[FrameGeometry, ...] | None = None, **attributes: str) -> SeriesSummary:
    return SeriesSummary(
        series_instance_uid=uid,
        modality=attributes.get("Modality", "MR"),
        sop_class_uids=frozenset({MR}),
        attributes={"Modality": "MR", "BodyPartExamined": "HEAD", **attributes},
        geometry=planes() if geometry is None else geometry,
        instances=(("1.1", "d"),),
    )


def study(*some: SeriesSummary, problem: str = "") -> StudySummary:
    return StudySummary("1", some, problem)


@pytest.mark.parametrize(
    ("values", "wanted", "answer"),
    [
        ("MR", "MR", True),
        ("mr ", "MR", True),
        ("CT", "MR", False),
        ("HEAD", ["BRAIN", "HEAD"], True),
        ("CHEST", ["BRAIN", "HEAD"], False),
        (["ORIGINAL", "PRIMARY"], "PRIMARY", True),
        ("1.5", 1.5, True),
        ("3", {"min": 1, "max": 3}, True),
        ("3.1", {"min": 1, "max": 3}, False),
        ("0.5", {"min": 1}, False),
        ("many", {"max": 3}, False),
        ("T1 MPRAGE", {"regex": "^T1"}, True),
        ("T2", {"regex": "^T1"}, False),
    ],
)
def test_a_match_is_equality_list_range_or_expression(values: object, wanted: object, answer: bool) -> None:
    assert attribute_matches(values, wanted) is answer  # type: ignore[arg-type]


def test_a_fitting_series_is_chosen() -> None:
    decision = decide(study(series()), {"Modality": "MR"}, INPUTS)
    assert (decision.outcome, decision.series_instance_uid) == ("job", "1.2")


def test_no_match_is_not_routed_and_says_what_was_there() -> None:
    decision = decide(study(series(Modality="CT")), {"Modality": "MR"}, INPUTS)
    assert decision.outcome == "not_routed"
    assert "Modality is CT, the route wants MR" in decision.reason


def test_an_absent_attribute_is_no_match() -> None:
    decision = decide(study(series()), {"ContrastBolusAgent": "x"}, INPUTS)
    assert decision.outcome == "not_routed"
    assert "ContrastBolusAgent is absent" in decision.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modality": "CT"}, "modality is CT, the package reads MR"),
        ({"sop_class_uids": frozenset({CT})}, "SOP class"),
        ({"geometry": planes(5)}, "5 images, at least 10"),
        ({"geometry": planes(drop=(20,))}, "missing"),
        ({"geometry": planes(step=8.0)}, "slice spacing is 8.00 mm, the package takes 0.5 to 6 mm"),
        ({"geometry": planes(pixel=3.0)}, "pixel spacing is 3.00 mm"),
        ({"geometry": planes(12)}, "field of view"),
        ({"attributes": {"ImageType": ["ORIGINAL", "LOCALIZER"]}}, "LOCALIZER"),
    ],
)
def test_what_the_package_cannot_read_is_unsuitable_with_the_reason(change: dict[str, object], words: str) -> None:
    decision = decide(study(replace(series(), **change)), {}, INPUTS)  # type: ignore[arg-type]
    assert decision.outcome == "unsuitable"
    assert words in decision.reason


def test_preferred_attributes_rank_and_the_finer_grid_follows() -> None:
    plain, coarse = series("1.1"), series("1.3", planes(40, 5.0))
    preferred = series("1.2", planes(40, 5.0), SeriesDescription="sag MPRAGE")
    assert decide(study(coarse, plain), {}, INPUTS).series_instance_uid == "1.1"
    assert decide(study(plain, preferred), {}, INPUTS).series_instance_uid == "1.2"


def test_a_study_that_contradicts_itself_fails_before_anything_is_matched() -> None:
    decision = decide(study(series(), problem="two patients"), {"Modality": "CT"}, INPUTS)
    assert (decision.outcome, decision.reason) == ("failed", "two patients")


def test_a_study_without_images_is_unsuitable() -> None:
    assert decide(study(), {}, INPUTS).outcome == "unsuitable"


T1 = replace(NEED, require=(Condition("RepetitionTime", max=1000),), prefer=(Preference("ContrastBolusAgent", "."),))
FLAIR = replace(NEED, require=(Condition("InversionTime", min=1500),), prefer=())
BOTH = {"t1": T1, "flair": FLAIR}
PLACE = {"FrameOfReferenceUID": "1.5"}


def test_each_input_gets_the_series_that_fits_it_best_and_all_candidates_are_told() -> None:
    plain = series("1.1", RepetitionTime="500", **PLACE)
    contrast = series("1.2", RepetitionTime="500", ContrastBolusAgent="Gd", **PLACE)
    flair = series("1.3", RepetitionTime="9000", InversionTime="2500", **PLACE)
    decision = decide(study(plain, flair, contrast), {}, BOTH)
    assert decision.series == (("t1", "1.2"), ("flair", "1.3"))
    assert decision.series_instance_uid == "1.2"
    told = {(one.input, one.series_instance_uid): one for one in decision.candidates}
    assert len(told) == 6
    assert told["t1", "1.2"].chosen
    assert told["t1", "1.2"].score == 1.0
    assert not told["t1", "1.1"].chosen
    assert told["t1", "1.1"].reason == ""
    assert "RepetitionTime is 9000, the package takes at most 1000" in told["t1", "1.3"].reason
    assert "InversionTime is absent" in told["flair", "1.1"].reason


def test_an_input_without_a_series_is_named() -> None:
    decision = decide(study(series("1.1", RepetitionTime="500", **PLACE)), {}, BOTH)
    assert decision.outcome == "unsuitable"
    assert "as flair: InversionTime is absent, the package needs it" in decision.reason


@pytest.mark.parametrize("other", [{"FrameOfReferenceUID": "1.6"}, {}])
def test_series_of_two_spaces_are_never_read_together(other: dict[str, str]) -> None:
    t1 = series("1.1", RepetitionTime="500", **PLACE)
    flair = series("1.3", InversionTime="2500", **other)
    decision = decide(study(t1, flair), {}, BOTH)
    assert decision.outcome == "unsuitable"
    assert "one Frame of Reference" in decision.reason


def test_one_series_is_never_two_inputs() -> None:
    alone = series("1.1", RepetitionTime="500", InversionTime="2500", **PLACE)
    assert decide(study(alone), {}, BOTH).outcome == "unsuitable"


@pytest.mark.parametrize(
    ("condition", "attributes", "words"),
    [
        (Condition("ScanningSequence", any_of=("IR", "SE")), {"ScanningSequence": "se"}, ""),
        (Condition("ScanningSequence", any_of=("IR",)), {"ScanningSequence": "SE"}, "the package takes IR"),
        (Condition("EchoTime", min=50, max=120), {"EchoTime": "90"}, ""),
        (Condition("EchoTime", min=50, max=120), {"EchoTime": "9"}, "at least 50 and at most 120"),
        (Condition("EchoTime", min=50), {"EchoTime": "long"}, "EchoTime is long"),
        (Condition("ContrastBolusAgent", absent=True), {"ContrastBolusAgent": "Gd"}, "reads series without"),
        (Condition("ContrastBolusAgent", absent=True), {"ContrastBolusAgent": ""}, ""),
        (Condition("EchoTime", min=50), {}, "EchoTime is absent"),
    ],
)
def test_a_condition_holds_or_is_said(condition: Condition, attributes: dict[str, str], words: str) -> None:
    decision = decide(study(series(**attributes)), {}, {"image": replace(NEED, require=(condition,))})
    assert decision.outcome == ("unsuitable" if words else "job")
    assert words in decision.reason


def test_a_score_below_the_least_is_not_read() -> None:
    need = {"image": replace(NEED, min_score=1.0)}
    assert decide(study(series(SeriesDescription="T1 sag")), {}, need).outcome == "job"
    decision = decide(study(series(SeriesDescription="scout")), {}, need)
    assert "its attributes score 0, the package asks for 1" in decision.reason


def test_a_field_of_view_may_be_too_large() -> None:
    decision = decide(study(series()), {}, {"image": replace(NEED, max_extent_mm=100.0)})
    assert "the package takes 100 mm" in decision.reason


def beating(times: int, drop: int = 0) -> tuple[FrameGeometry, ...]:
    """Return planes of `times` moments at ten places; the last `drop` images are not there."""
    made = [replace(plane, temporal_position=str(40 * t)) for plane in planes(12, 8.0) for t in range(times)]
    return tuple(made[: len(made) - drop])


def test_a_package_that_reads_time_takes_all_moments_and_says_what_is_missing() -> None:
    need = {"cine": replace(NEED, volumes="all", min_volumes=10, slice_spacing_mm=(4.0, 12.0))}
    assert decide(study(series(geometry=beating(20))), {}, need).outcome == "job"
    assert "8 volumes over time, at least 10" in decide(study(series(geometry=beating(8))), {}, need).reason
    assert "19 to 20 images over time" in decide(study(series(geometry=beating(20, drop=1))), {}, need).reason
