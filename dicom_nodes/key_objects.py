"""Key Object Selection (PS3.3 A.35.4, TID 2010): the images worth a look, or results that are taken back.

A retraction is a selection "Rejected for Quality Reasons" of our own earlier results, as IHE IOCM has it for images;
it is for destinations that act on such notes, and says why in words.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from appliance.finding import Code
from appliance.job import ObjectReference, ResultContext
from dicom_nodes import codes, origin
from dicom_nodes.pydicom_quiet import lenient
from dicom_nodes.result_classes import KEY_OBJECT_SELECTION
from dicom_nodes.source import SourceHeaders

IMAGES = "1.2.840.10008.5.1.4.1.1."  # storage classes of images and segmentations
DOCUMENTS = "1.2.840.10008.5.1.4.1.1.88."


def write_key_images(
    chosen: Sequence[ObjectReference], source: SourceHeaders, context: ResultContext, description: str
) -> bytes:
    """Return a selection "Of Interest" of images and results, the same bytes for the same arguments."""
    return _written(codes.OF_INTEREST, chosen, source, context, origin.KEY_OBJECTS_SERIES, description)


def write_retraction(taken_back: Sequence[ObjectReference], source: SourceHeaders, context: ResultContext) -> bytes:
    """Return a selection "Rejected for Quality Reasons" of results that newer ones replace."""
    said = "Results of software, replaced by newer ones of the same study. No image is rejected."
    return _written(codes.REJECTED_FOR_QUALITY, taken_back, source, context, origin.RETRACTION_SERIES, said)


def _written(
    title: Code,
    chosen: Sequence[ObjectReference],
    source: SourceHeaders,
    context: ResultContext,
    series: origin.Series,
    description: str,
) -> bytes:
    ds = origin.started(KEY_OBJECT_SELECTION, "KO")
    with lenient():
        origin.stamp(ds, source, context, series)
        ds.ReferencedPerformedProcedureStepSequence = []
        ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
        ds.ConceptNameCodeSequence = [origin.coded(title)]
        template = Dataset()
        template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
        ds.ContentTemplateSequence = [template]
        ds.ContentSequence = [
            *_observer(context),
            _text(codes.KEY_OBJECT_DESCRIPTION, description),
            *(_reference(one) for one in chosen),
        ]
        ds.CurrentRequestedProcedureEvidenceSequence = evidence(chosen, source.header["StudyInstanceUID"].value)
        return origin.part10(ds, {})


def _observer(context: ResultContext) -> list[Dataset]:
    """Return the device observer (TID 1002, 1004)."""
    kind = _item("CODE", "HAS OBS CONTEXT", codes.OBSERVER_TYPE)
    kind.ConceptCodeSequence = [origin.coded(codes.DEVICE)]
    uid = _item("UIDREF", "HAS OBS CONTEXT", codes.DEVICE_OBSERVER_UID)
    uid.UID = context.appliance_uid
    name = _text(codes.DEVICE_OBSERVER_NAME, context.appliance_name)
    name.RelationshipType = "HAS OBS CONTEXT"
    return [kind, uid, name]


def _item(value_type: str, relationship: str, name: Code) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    item.ConceptNameCodeSequence = [origin.coded(name)]
    return item


def _text(name: Code, value: str) -> Dataset:
    item = _item("TEXT", "CONTAINS", name)
    item.TextValue = value
    return item


def _reference(one: ObjectReference) -> Dataset:
    """Return the item of a chosen object: IMAGE or COMPOSITE, without a concept name (TID 2010)."""
    item = Dataset()
    is_image = one.sop_class_uid.startswith(IMAGES) and not one.sop_class_uid.startswith(DOCUMENTS)
    item.RelationshipType, item.ValueType = "CONTAINS", "IMAGE" if is_image else "COMPOSITE"
    item.ReferencedSOPSequence = [_instance(one)]
    return item


def _instance(one: ObjectReference) -> Dataset:
    item = Dataset()
    origin.put(item, "ReferencedSOPClassUID", one.sop_class_uid)
    origin.put(item, "ReferencedSOPInstanceUID", one.sop_instance_uid)
    return item


def evidence(chosen: Sequence[ObjectReference], study_instance_uid: str) -> list[Dataset]:
    """Return the hierarchical references to objects of one study (PS3.3 Table C.17-3a)."""
    by_series: dict[str, list[Dataset]] = {}
    for one in chosen:
        by_series.setdefault(one.series_instance_uid, []).append(_instance(one))
    listed = []
    for uid, instances in by_series.items():
        series = Dataset()
        origin.put(series, "SeriesInstanceUID", uid)
        series.ReferencedSOPSequence = Items(instances)
        listed.append(series)
    study = Dataset()
    origin.put(study, "StudyInstanceUID", study_instance_uid)
    study.ReferencedSeriesSequence = listed
    return [study]
