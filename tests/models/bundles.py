"""Bundles written after the conventions of public model zoos, small, with weights made here from a fixed seed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from models.networks import build

EXPRESSIONS = {  # what a bundle has beside what an import reads
    "imports": ["$import glob", "$import os"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network": "$@network_def.to(@device)",
    "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
    "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "network": "@network"},
    "run": ["$@evaluator.run()"],
}
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "separate_folder": False}
LOAD = [{"_target_": "LoadImaged", "keys": "@image_key"}, {"_target_": "EnsureChannelFirstd", "keys": "@image_key"}]


def metadata(modality: str, channels: dict[str, str], answers: dict[str, str], **more: Any) -> dict[str, Any]:
    image = {"type": "image", "modality": modality, "num_channels": len(channels), "channel_def": channels}
    pred = {"type": "image", "num_channels": len(answers), "channel_def": answers}
    return {
        "version": "0.5.3",
        "monai_version": "1.4.0",
        "task": "a task",
        "description": "A made-up model of the tests",
        "authors": "The tests",
        "copyright": "nobody",
        "eval_metrics": {"mean_dice": 0.96},
        "intended_use": "This is an example, not to be used for diagnostic purposes",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        **more,
    }


def transforms(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": list(steps)}


def inverted(**changes: Any) -> dict[str, Any]:
    return {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
            "nearest_interp": False, "to_tensor": True, **changes}  # fmt: skip


def spleen() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metadata and inference of a CT segmentation: windows of a U-Net, resampled."""
    inference = {
        **EXPRESSIONS,
        "image_key": "image",
        "sizes": {"roi": [32, 32, 16]},
        "network_def": {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
                        "channels": [8, 16], "strides": [2], "num_res_units": 1, "norm": "batch"},
        "preprocessing": transforms(
            *copy.deepcopy(LOAD),
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1,
             "clip": True},
            {"_target_": "EnsureTyped", "keys": "image"},
        ),
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@sizes::roi", "sw_batch_size": 4,
                    "overlap": 0.5},
        "postprocessing": transforms(
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            inverted(),
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            dict(SAVE),
        ),
    }  # fmt: skip
    return metadata("CT", {"0": "image"}, {"0": "background", "1": "spleen"}), inference


def tumour() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metadata and inference of an MR segmentation: four contrasts, three regions within each other."""
    inference = {
        **EXPRESSIONS,
        "network_def": {"_target_": "SegResNet", "blocks_down": [1, 1], "blocks_up": [1], "init_filters": 8,
                        "in_channels": 4, "out_channels": 3, "dropout_prob": 0.2},
        "preprocessing": transforms(
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
        ),
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 16], "sw_batch_size": 1, "overlap": 0.5},
        "postprocessing": transforms(
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            inverted(meta_keys="pred_meta_dict"),
            {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
            dict(SAVE),
        ),
    }  # fmt: skip
    channels = {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"}
    return metadata("MR", channels, {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}), inference


def classifier() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metadata and inference of a 2-D classifier."""
    inference = {
        **EXPRESSIONS,
        "network_def": {"_target_": "monai.networks.nets.DenseNet121", "spatial_dims": 2, "in_channels": 1,
                        "out_channels": 2, "init_features": 8, "growth_rate": 4, "block_config": [1, 1]},
        "preprocessing": transforms(
            {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
            {"_target_": "Resized", "keys": "image", "spatial_size": [64, 48], "mode": "bilinear"},
            {"_target_": "ScaleIntensityd", "keys": ["image"]},
            {"_target_": "EnsureTyped", "keys": "image"},
        ),
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": transforms(
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ),
    }  # fmt: skip
    return metadata("CR", {"0": "image"}, {"0": "normal", "1": "abnormal"}), inference


ARCHITECTURES = {"UNet": "monai-unet", "SegResNet": "monai-segresnet", "DenseNet121": "monai-densenet121"}


def network(definition: dict[str, Any]) -> torch.nn.Module:
    """Return the network of a network_def with weights of a fixed seed."""
    torch.manual_seed(7)
    kwargs = {key: value for key, value in definition.items() if key != "_target_"}
    return build(ARCHITECTURES[definition["_target_"].rpartition(".")[2]], kwargs)


def write(folder: Path, told: tuple[dict[str, Any], dict[str, Any]], weights: object = None) -> Path:
    """Write a bundle; `weights` stand for those of the network_def."""
    for name in ("configs", "models", "scripts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in zip(("metadata", "inference"), told, strict=True):
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4))
    kept = network(told[1]["network_def"]).state_dict() if weights is None else weights
    torch.save(kept, folder / "models" / "model.pt")
    return folder


def smooth_weights(definition: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return weights of the spleen's U-Net that make segment 1 of what is brighter than half, blurred over 3 voxels."""
    weights = network(definition).state_dict()
    for name, tensor in weights.items():
        if ".N." not in name:
            tensor.zero_()
    half = torch.tensor([0.5, 1.0, 0.5])
    weights["model.0.residual.weight"][0, 0] = 1 / 27
    weights["model.2.0.conv.weight"][0, 1] = half[:, None, None] * half[:, None] * half
    weights["model.2.1.conv.unit0.conv.bias"][0] = 0.5
    return weights
