"""What a bundle may not hold is refused in one line, with file, key and reason, before its weights are touched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import CurieError, Missing, PackageRefused, SettingsError
from models.bundle.declaring import Said, Understood, understood
from models.bundle.names import ORGANS, looked_up
from models.bundle.reading import Bundle, open_weights
from models.bundle_import import import_bundle
from tests.models import bundles

Change = Callable[[dict[str, Any]], object]
LPS = Said(axcodes="LPS")
LAMBDA = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: __import__('os').system('touch canary')"}

CROP = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"}
RESIZE = {"_target_": "Resized", "keys": "image", "spatial_size": [8, 8, 8], "mode": "trilinear"}


def steps(inference: dict[str, Any], chain: str = "preprocessing") -> list[Any]:
    found: list[Any] = inference[chain]["transforms"]
    return found


def understand(tmp_path: Path, told: Any, said: Said = LPS) -> Understood:
    """Return what is understood of a bundle's two files; its weights are no weights."""
    return understood(Bundle(bundles.write(tmp_path / "bundle", told, {}), said.left_out), said)


def changed(told: tuple[Any, Any], change: Change) -> tuple[Any, Any]:
    change(told[1])
    return told


SPLEEN: list[tuple[Change, str]] = [
    (lambda c: steps(c).append(LAMBDA), "preprocessing::transforms::6::func: .* is a Python expression"),
    (lambda c: c.update(network_def="$@net.to(@device)"), "network_def: is not there, or names no _target_"),
    (lambda c: c["network_def"].update(out_channels="$@classes + 1"), "network_def::out_channels: .* expression"),
    (lambda c: c["network_def"].update(_target_="$monai.networks.nets.UNet"), "network_def::_target_: .* expression"),
    (lambda c: c["network_def"].update(_target_="scripts.net.UNet"), "network_def: 'scripts.net.UNet' is code of"),
    (lambda c: c["network_def"].update(_target_="os.system"), "code of its own"),
    (lambda c: c["network_def"].update(_target_="SwinUNETR"), "SwinUNETR is not a network that can be imported"),
    (lambda c: c["network_def"].update(_requires_="@x"), "network_def::_requires_: '@x' names nothing"),
    (lambda c: c["network_def"].update(_mode_="debug"), "network_def::_mode_: is not understood"),
    (lambda c: c["network_def"].update(in_channels="@nowhere"), "network_def::in_channels: '@nowhere' names nothing"),
    (lambda c: c["network_def"].update(in_channels="@a + 1"), "'@a \\+ 1' is not a plain reference"),
    (lambda c: c.update(a="@b", b="@a") or c["network_def"].update(act="@a"), "refers to itself"),
    (lambda c: c["network_def"].update(norm="%other.json#norm"), "network_def::norm: .* is a macro"),
    (lambda c: c["network_def"].update(in_channels=True), "network_def::in_channels: is no whole number"),
    (lambda c: steps(c).append({"_target_": "RandFlipd", "keys": "image"}), "RandFlipd: is not a transform"),
    (lambda c: steps(c).append({"_target_": "scripts.Own", "keys": "image"}), "'scripts.Own' is code of its own"),
    (lambda c: steps(c)[4].update(_disabled_="$True"), "transforms::4::_disabled_: .* is a Python expression"),
    (lambda c: steps(c)[4].update(_disabled_=1), "transforms::4::_disabled_: is neither true nor false"),
    (lambda c: steps(c)[4].update(_disabled_="maybe"), "transforms::4::_disabled_: is neither true nor false"),
    (lambda c: c["network_def"].update(_disabled_=True), "network_def: is disabled or left out"),
    (lambda c: c["inferer"].update(_disabled_="true"), "inferer: is disabled or left out"),
    (lambda c: steps(c).append(CROP) or steps(c).append(CROP), "transforms::7: CropForegroundd: only once"),
    (lambda c: steps(c).__setitem__(3, RESIZE) or steps(c).insert(4, CROP), "CropForegroundd: stands after Resized"),
    (lambda c: steps(c).append("@preprocessing"), "refers to itself|is neither a component"),
    (lambda c: steps(c)[0].update(keys=["image", "label"]), 'LoadImaged: works on other keys than "image"'),
    (lambda c: steps(c)[3].update(pixdim="$[1, 1, 1]"), "preprocessing::transforms::3::pixdim: .* expression"),
    (lambda c: steps(c)[3].update(pixdim=[1, 1]), "pixdim: Spacingd: is not 3 numbers"),
    (lambda c: steps(c)[3].update(mode="nearest"), "mode: Spacingd: 'nearest' has no counterpart"),
    (lambda c: steps(c)[3].update(diagonal=True), "diagonal: Spacingd: True has no counterpart"),
    (lambda c: steps(c)[3].update(secret=1), "Spacingd: is not known"),
    (lambda c: steps(c)[4].pop("b_max"), "ScaleIntensityRanged: needs b_min and b_max"),
    (lambda c: steps(c)[4].update(a_min=999), "needs a_min < a_max"),
    (lambda c: steps(c).insert(2, steps(c).pop(4)), "Spacingd: stands after a step that changes values"),
    (lambda c: steps(c).append({"_target_": "Resized", "keys": "image", "spatial_size": [8, 8, 8]}), "'area' has no"),
    (lambda c: c["inferer"].update(_target_="scripts.Inferer"), "inferer: 'scripts.Inferer' is code of its own"),
    (lambda c: c["inferer"].update(_target_="SaliencyInferer"), "SaliencyInferer: is not an inferer"),
    (lambda c: c["inferer"].update(_target_="SimpleInferer", roi_size=1), "sees images of any size"),
    (lambda c: c["inferer"].update(roi_size=[-1, 32, 32]), "roi_size: .* is not from 1 to 1024"),
    (lambda c: c["inferer"].update(padding_mode="reflect"), "padding_mode: .* 'reflect' has no counterpart"),
    (lambda c: c["inferer"].update(with_coord=True), "with_coord: .* True has no counterpart"),
    (lambda c: steps(c, "postprocessing").append(LAMBDA), "postprocessing::transforms::4::func: .* expression"),
    (lambda c: steps(c, "postprocessing").pop(2), "postprocessing: decides nothing"),
    (lambda c: steps(c, "postprocessing")[1].update(transform="@inferer"), "transform: .* has no counterpart"),
    (lambda c: steps(c, "postprocessing")[3].update(output_dir="$evil()"), "3::output_dir: .* Python expression"),
    (lambda c: steps(c, "postprocessing")[0].update(other="f"), "other: Activationsd: 'f' has no counterpart"),
    (lambda c: steps(c, "postprocessing")[2].update(to_onehot=2), "to_onehot: AsDiscreted: 2 has no counterpart"),
    (lambda c: steps(c, "postprocessing").append(
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [2]}), "labels beyond the 1"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), SPLEEN, ids=[words for _, words in SPLEEN])
def test_a_config_that_is_more_than_data_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(PackageRefused, match=words) as refusal:
        understand(tmp_path, changed(bundles.spleen(), change), Said())
    assert str(refusal.value).startswith("configs/inference.json: ")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "bundle" / "canary").exists()


def test_without_a_change_the_same_bundle_is_understood(tmp_path: Path) -> None:
    read = understand(tmp_path, bundles.spleen(), Said())
    assert read.declared["architecture"]["name"] == "monai-unet"


def test_what_an_import_does_not_need_may_hold_expressions(tmp_path: Path) -> None:
    told = changed(bundles.spleen(), lambda c: c.update(handlers=[{"_target_": "scripts.Own", "x": "$1 + 1"}]))
    assert understand(tmp_path, told, Said()).declared["inference"]["roi"] == [32, 32, 16]


@pytest.mark.parametrize("sign", ["::", "#"])
def test_a_plain_reference_is_followed_in_both_spellings(tmp_path: Path, sign: str) -> None:
    told = changed(bundles.spleen(), lambda c: c["network_def"].update(out_channels=f"@sizes{sign}list{sign}1"))
    told[1]["sizes"]["list"] = [5, "@two"]
    told[1]["two"] = 2
    assert understand(tmp_path, told, Said()).declared["architecture"]["kwargs"]["out_channels"] == 2


def test_a_step_that_a_person_leaves_out_is_not_read_and_a_stray_key_is_said(tmp_path: Path) -> None:
    told = changed(bundles.tumour(), lambda c: steps(c, "postprocessing").insert(3, LAMBDA))
    with pytest.raises(PackageRefused, match="--leave-out"):
        understand(tmp_path, told)
    left = Said(axcodes="LPS", left_out=frozenset({"postprocessing#transforms#3"}))
    assert understand(tmp_path, told, left).declared["outputs"]["activation"] == "sigmoid"
    stray = Said(axcodes="LPS", left_out=frozenset({"postprocessing::transforms::9"}))
    with pytest.raises(PackageRefused, match="nothing that is read stands there"):
        understand(tmp_path, bundles.tumour(), stray)


@pytest.mark.parametrize("value", [True, "true", " True", "@off"])
def test_a_disabled_step_is_not_read(tmp_path: Path, value: object) -> None:
    told = changed(bundles.spleen(), lambda c: steps(c).append({"_target_": "scripts.Own", "_disabled_": value}))
    told[1]["off"] = True
    assert len(understand(tmp_path, told, Said()).declared["preprocess"]) == 3


@pytest.mark.parametrize("value", [False, "false"])
def test_a_step_that_is_not_disabled_is_read(tmp_path: Path, value: object) -> None:
    told = changed(bundles.spleen(), lambda c: steps(c)[4].update(_disabled_=value))
    assert len(understand(tmp_path, told, Said()).declared["preprocess"]) == 3


def test_a_network_that_a_person_leaves_out_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="network_def: is disabled or left out"):
        understand(tmp_path, bundles.spleen(), Said(left_out=frozenset({"network_def"})))


TUMOUR: list[tuple[Change, str]] = [
    (lambda c: steps(c)[1].update(channel_wise=False), "takes all channels together"),
    (lambda c: steps(c).append({"_target_": "CropForegroundd", "keys": "image", "source_key": "image"}),
     "looks at every channel"),
    (lambda c: steps(c, "postprocessing")[0].update(sigmoid=False, softmax=True), "threshold has a meaning after"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), TUMOUR, ids=[words for _, words in TUMOUR])
def test_what_several_channels_would_change_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(PackageRefused, match=words):
        understand(tmp_path, changed(bundles.tumour(), change))


def test_what_the_bundle_does_not_say_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--axcodes"):
        understand(tmp_path, bundles.tumour(), Said())
    with pytest.raises(SettingsError, match="--codes: no code is known for 'normal'"):
        understand(tmp_path, bundles.classifier())
    metadata, inference = bundles.spleen()
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] = "left thing"
    with pytest.raises(SettingsError, match="--codes: no code is known for 'left thing'"):
        understand(tmp_path, (metadata, inference), Said())
    metadata, inference = bundles.tumour()
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "spleen", "1": "liver", "2": "tumor"}
    with pytest.raises(SettingsError, match="--nesting"):
        understand(tmp_path, (metadata, inference))
    metadata, inference = bundles.spleen()
    format_ = metadata["network_data_format"] | {"inputs": {"image": {"modality": "n/a"}}}
    with pytest.raises(SettingsError, match="--modality"):
        understand(tmp_path, (metadata | {"network_data_format": format_}, inference), Said())
    with pytest.raises(SettingsError, match="--version"):
        understand(tmp_path, (metadata | {"version": "0.1"}, inference), Said())


def test_a_person_may_say_codes_order_and_spacing(tmp_path: Path) -> None:
    metadata, inference = bundles.tumour()
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "a", "1": "b", "2": "c"}
    coded = {"category": {"value": "49755003", "meaning": "Morphologically Abnormal Structure"},
             "type": {"value": "108369006", "meaning": "Neoplasm"}}  # fmt: skip
    said = Said(axcodes="LPS", spacing_mm=(1, 1, 1), nesting=(2, 0, 1), codes=dict.fromkeys("abc", coded))
    read = understand(tmp_path, (metadata, inference), said)
    declared = read.declared
    assert any("half a voxel" in one for one in read.differences)
    assert declared["architecture"]["kwargs"]["channel_order"] == [2, 0, 1]
    assert [one["name"] for one in declared["outputs"]["segments"]] == [
        "c without what is inside", "a without what is inside", "b"
    ]  # fmt: skip
    assert {"op": "resample", "spacing_mm": [1, 1, 1]} in declared["preprocess"]


def test_percentiles_fixed_normalisation_crop_and_cleaning_have_counterparts(tmp_path: Path) -> None:
    metadata, inference = bundles.spleen()
    steps(inference)[4:] = [
        {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"},
        {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 1, "upper": 99, "b_min": 0,
         "b_max": 1, "clip": True},
        {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 0.2, "divisor": 0.5},
    ]  # fmt: skip
    steps(inference, "postprocessing").insert(
        3, {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
    )
    declared = understand(tmp_path, (metadata, inference), Said()).declared
    assert declared["preprocess"] == [
        {"op": "orient", "axcodes": "RAS"},
        {"op": "crop_foreground", "threshold": 0.0},
        {"op": "resample", "spacing_mm": [1.5, 1.5, 2.0]},
        {"op": "clip_percentile", "lower": 1.0, "upper": 99.0},
        {"op": "scale", "lowest": 0.0, "highest": 1.0},
        {"op": "scale_range", "a_min": 0.2, "a_max": 0.7, "clip": False},
    ]
    assert declared["postprocess"][1] == {"op": "largest_component", "segments": [1]}


def test_foreground_after_a_window_is_what_lies_above_its_lower_end(tmp_path: Path) -> None:
    metadata, inference = bundles.spleen()
    steps(inference).append({"_target_": "CropForegroundd", "keys": "image", "source_key": "image"})
    assert understand(tmp_path, (metadata, inference), Said()).declared["preprocess"][1]["threshold"] == -57


# --- files ---


def linked(path: Path) -> None:
    path.rename(path.parent.parent / f"moved-{path.name}")
    path.symlink_to(path.parent.parent / f"moved-{path.name}")


FILES: list[tuple[Callable[[Path], object], type[CurieError], str]] = [
    (lambda b: linked(b / "configs" / "inference.json"), PackageRefused, "inference.json: .* no links"),
    (lambda b: linked(b / "configs"), PackageRefused, "configs/metadata.json: .* no links"),
    (lambda b: (b / "configs" / "metadata.json").unlink(), Missing, "holds no configs/metadata.json"),
    (lambda b: (b / "configs" / "inference.json").rename(b / "configs" / "inference.yaml"), PackageRefused, "only J"),
    (lambda b: (b / "configs" / "inference.json").write_text("{" * 100_000), PackageRefused, "cannot be read as JSON"),
    (lambda b: (b / "configs" / "inference.json").write_text('{"a": 1, "a": 2}'), PackageRefused, "stands twice"),
    (lambda b: (b / "configs" / "inference.json").write_text('{"a": NaN}'), PackageRefused, "NaN is no number"),
    (lambda b: (b / "configs" / "inference.json").write_text("[]"), PackageRefused, "holds no JSON object"),
    (lambda b: (b / "configs" / "inference.json").write_bytes(b" " * (4 * 2**20 + 1)), PackageRefused, "larger than"),
    (lambda b: (b / "configs" / "inference.json").write_bytes(b"\xff"), PackageRefused, "cannot be read as JSON"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "error", "words"), FILES, ids=[words + str(n) for n, (_, _, words) in enumerate(FILES)]
)
def test_files_that_are_not_plain_json_are_refused(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[CurieError], words: str
) -> None:
    bundle = bundles.write(tmp_path / "bundle", bundles.spleen(), {})
    spoil(bundle)
    with pytest.raises(error, match=words) as refusal:
        import_bundle(bundle, tmp_path / "out", Said())
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_weights_behind_a_link_or_too_large_are_refused(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "bundle", bundles.spleen(), {})
    with (bundle / "models" / "model.pt").open("r+b") as file:
        file.truncate(4 * 2**30 + 1)  # a hole: takes no room
    with pytest.raises(PackageRefused, match=r"models/model\.pt: .* larger than"):
        open_weights(bundle)
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(Missing, match=r"holds no models/model\.pt"):
        import_bundle(bundle, tmp_path / "out", Said())
    (bundle / "models" / "model.pt").symlink_to("/etc/passwd")
    with pytest.raises(PackageRefused, match="no links"):
        import_bundle(bundle, tmp_path / "out", Said())


def test_a_folder_that_is_no_bundle_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="there is no bundle"):
        import_bundle(tmp_path / "nowhere", tmp_path / "out", Said())


def test_codes_of_the_table_are_those_of_the_standard() -> None:
    from pydicom.sr._concepts_dict import concepts

    listed: dict[str, set[str]] = {}
    for kinds in concepts["SCT"].values():
        for code, (meaning, _) in kinds.items():
            listed.setdefault(code, set()).add(meaning)
    for name, (value, meaning) in ORGANS.items():
        assert meaning in listed[value], name
    for name in ("whole tumor", "Tumor Core", "enhancing_tumor", "left kidney"):
        found = looked_up(name)
        assert found is not None, name
        for code in (found.category, found.type, found.outside_type or found.type, found.site or found.type):
            assert code["meaning"] in listed[code["value"]]
    assert looked_up("left thing") is None


def test_expressions_of_a_config_are_not_parsed_even_as_names() -> None:
    source = "\n".join(path.read_text() for path in (Path(__file__).parents[2] / "models" / "bundle").glob("*.py"))
    assert not re.search(r"ConfigParser|importlib\.util|\beval\(|\bexec\(|\bast\b", source)
    assert json.dumps(LAMBDA)
