"""One site's share of a round: base weights and cases in, trained weights and figures out.

Cases are arrays that never leave the process that was given them. It must never see a catalogue, a file or a name of
a patient: a case knows its patient by a hash alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from appliance.errors import RoundRefused
from appliance.volume import Volume
from models.declaration import Declaration
from models.federation import Floats, Weights
from models.holding_back import is_held_back as is_held_back
from models.reading import Labels
from models.training import Budget, Draw, Training, loss_of
from models.transforms import prepared
from models.zoo.augmentation import Variation, varied

AVERAGING = 0.9  # of the moving average in a short run
WARM_UP = 0.2  # share of a short run in which the rate rises: the optimiser knows nothing of earlier rounds
ON_A_LABEL = 0.5  # share of windows that have a labelled voxel in their middle, where a case is larger than a window
NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Case:
    """One labelled image as the network sees it."""

    image: Tensor  # (channels, x, y, z) float32
    labels: Tensor  # (x, y, z) int64, 0 background
    patient: str  # a hash
    scanner: str = ""  # manufacturer and model, as the images say


@dataclass(frozen=True)
class Plan:
    """How a site trains in one round; what is not said here is the package's."""

    steps: int = 60
    batch: int = 2
    crop: tuple[int, ...] = (40, 56, 40)
    learning_rate: float = 1e-3
    last_rate: float = 1.0  # share of it that is left in the end: in rounds the coordinator lowers it
    proximal: float = 0.0  # FedProx: half of this times the squared distance to the base is added to the loss
    personal: bool = False  # normalisation layers stay the site's own and are not sent
    mixed_precision: bool = False
    noise: float = 0.0  # multiplier of patient-level differential privacy; 0: none
    patient_clip: float = 1.0  # L2 norm of one patient's gradient, where noise is added
    seed: int = 1914


def case_of(volume: Volume, labels: Labels, declared: Declaration, patient: str) -> Case:
    """Return a labelled volume of a package with one input as its network sees it; labels go along nearest."""
    image, grid = prepared([volume], declared.preprocess)
    kept = torch.from_numpy(np.ascontiguousarray(labels[grid.box])).float()
    moved = functional.interpolate(kept[None, None], size=grid.size, mode="nearest-exact")[0, 0]
    return Case(image, grid.turn.apply(moved).contiguous().long(), patient)


def shared_names(network: nn.Module, *, personal: bool) -> list[str]:
    """Return the names of all weights that a site shares: numbers with fractions, without personal layers."""
    own = set()
    for name, layer in network.named_modules():
        if personal and isinstance(layer, NORMALISATION):
            own |= {f"{name}.{key}" for key in layer.state_dict()}
    state = network.state_dict()
    return sorted(name for name, one in state.items() if one.is_floating_point() and name not in own)


def weights_of(network: nn.Module, names: Sequence[str]) -> dict[str, Floats]:
    """Return weights as float32 arrays of their own."""
    state = network.state_dict()
    return {name: state[name].detach().to("cpu", torch.float32).numpy().copy() for name in names}


def put_into(network: nn.Module, weights: Weights) -> None:
    """Set the named weights of a network. Raises RoundRefused where names or shapes are not the network's."""
    state = network.state_dict()
    for name, one in weights.items():
        if name not in state or tuple(state[name].shape) != one.shape:
            raise RoundRefused(f"the base holds {name!r} as {one.shape}, the network does not")
        state[name].copy_(torch.from_numpy(np.ascontiguousarray(one)))


def trained(network: nn.Module, cases: Sequence[Case], plan: Plan, device: str) -> dict[str, float]:
    """Train `network` in place on all cases and return the loss.

    Deterministic on a CPU for the same arguments. Raises RoundRefused where there is no case.
    """
    if not cases:
        raise RoundRefused("there is no case to train on")
    if plan.noise > 0:
        return _privately(network, cases, plan, device)
    budget = Budget(
        minutes=math.inf, steps=plan.steps, batch=plan.batch, crops=((0.0, plan.crop),),
        learning_rate=plan.learning_rate, warm_up=WARM_UP, last_rate=plan.last_rate, averaging=AVERAGING,
        checkpoint_s=math.inf, seed=plan.seed, mixed_precision=plan.mixed_precision, proximal=plan.proximal,
    )  # fmt: skip
    torch.manual_seed(plan.seed)
    training = Training(network, drawer(cases), budget, device, None)
    average = training.run()
    network.load_state_dict(average.state_dict())
    network.cpu().eval()
    return {"loss": training.loss}


def drawer(cases: Sequence[Case], how: Variation = Variation()) -> Draw:  # noqa: B008 - it is frozen
    """Return the function that draws a variant of one of the cases."""

    def draw(random: torch.Generator, crop: Sequence[int]) -> tuple[Tensor, Tensor]:
        case = cases[int(torch.randint(len(cases), (), generator=random))]
        return varied(case.image, case.labels, random, crop, how, somewhere(case.labels, random, crop))

    return draw


def somewhere(labels: Tensor, random: torch.Generator, crop: Sequence[int]) -> Tensor:
    """Return how far from the middle of a case a window lies, in voxels: around a label half the time, else free."""
    size = torch.tensor(labels.shape)
    most = ((size - torch.tensor(crop)) / 2).clamp(min=0)  # so that the window stays inside
    if not most.any():
        return most
    anywhere = (2 * torch.rand(len(crop), generator=random) - 1) * most
    labelled = labels.nonzero() if float(torch.rand((), generator=random)) < ON_A_LABEL else labels.new_zeros(0)
    if not len(labelled):
        return anywhere
    around = labelled[int(torch.randint(len(labelled), (), generator=random))] - (size - 1) / 2
    return torch.minimum(torch.maximum(around, -most), most)


def _privately(network: nn.Module, cases: Sequence[Case], plan: Plan, device: str) -> dict[str, float]:
    """Train with patient-level differential privacy: patients drawn by chance, each gradient clipped, noise added.

    The sampled Gaussian mechanism of DP-SGD (Abadi et al. 2016), a patient being the unit: all that is added or taken
    away with one patient is one clipped gradient a step.
    """
    if any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in network.modules()):
        raise RoundRefused("batch normalisation mixes patients: differential privacy needs instance or group norms")
    by_patient: dict[str, list[Case]] = {}
    for case in cases:
        by_patient.setdefault(case.patient, []).append(case)
    random = torch.Generator().manual_seed(plan.seed)
    network.to(device).train()
    kept = [one for one in network.parameters() if one.requires_grad]
    optimiser = torch.optim.SGD(kept, plan.learning_rate, momentum=0.9)
    share, losses = sample_rate(len(by_patient), plan), []
    for _ in range(plan.steps):
        total = [torch.zeros_like(one) for one in kept]
        for several in by_patient.values():
            if float(torch.rand((), generator=random)) >= share:
                continue
            losses.append(_add_patient(network, several, kept, total, plan, device, random))
        for one, summed in zip(kept, total, strict=True):
            noise = torch.randn(one.shape, generator=random).to(device) * (plan.noise * plan.patient_clip)
            one.grad = (summed + noise) / (share * len(by_patient))
        optimiser.step()
    network.cpu().eval()
    return {"loss": float(np.mean(losses)) if losses else 0.0}


def _add_patient(
    network: nn.Module, cases: Sequence[Case], kept: Sequence[nn.Parameter], total: Sequence[Tensor], plan: Plan,
    device: str, random: torch.Generator,
) -> float:  # fmt: skip
    """Add the clipped gradient of one patient to `total`; returns the loss."""
    image, labels = drawer(cases)(random, plan.crop)
    loss = loss_of(network(image[None].to(device)), labels[None].to(device))
    gradients = torch.autograd.grad(loss, list(kept))
    norm = torch.sqrt(sum((one.square().sum() for one in gradients), torch.zeros((), device=device)))
    factor = (plan.patient_clip / (norm + 1e-12)).clamp(max=1.0)
    for summed, one in zip(total, gradients, strict=True):
        summed.add_(one * factor)
    return float(loss.detach())


def sample_rate(patients: int, plan: Plan) -> float:
    """Return the probability with which a patient is drawn in one step."""
    return min(1.0, plan.batch / max(1, patients))


def epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    """Return the ε that `steps` steps have cost at this δ (Rényi accounting of Opacus)."""
    return epsilon_of([(noise, rate, steps)], delta)


def epsilon_of(rounds: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Return the ε that several rounds of (noise, rate, steps) have cost together at this δ."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = list(rounds)
    return float(accountant.get_epsilon(delta))
