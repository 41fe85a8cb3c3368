"""What a site gives to one round, from its package and cases: changes of weights and figures. Arrays in, arrays out.

It must never see a catalogue, a file beside the package's own, or a name of a patient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.engines.torch import trained_network
from models.federation import Floats, Weights, difference
from models.hold_out import reader_of
from models.local_pass import Case, Plan, put_into, shared_names, trained, weights_of
from models.package import Package


@dataclass(frozen=True)
class Contribution:
    """The outcome of local training."""

    deltas: dict[str, Floats]  # of every weight of the base; nothing changed where a layer stays at the site
    metrics: dict[str, float]  # loss, Dice on what is held back before and after
    own: dict[str, Floats] = field(default_factory=dict)  # weights of layers that stay


def contribution(
    package: Package,
    base: dict[str, Floats],
    cases: tuple[Sequence[Case], Sequence[Case]],
    plan: Plan,
    device: str,
    own: Weights | None = None,
) -> Contribution:
    """Return what training on the first of `cases` changes, judged on the second; `own` are layers that stayed before.

    Raises RoundRefused where the base is not of this package, or there is no case.
    """
    network = trained_network(package)
    put_into(network, base)
    if plan.personal and own:
        put_into(network, own)
    before = reader_of(package, network, cases[1]).mean()
    metrics = trained(network, cases[0], plan, device)
    metrics |= {"dice_before": before, "dice_after": reader_of(package, network, cases[1]).mean()}
    after, shared = weights_of(network, list(base)), set(shared_names(network, personal=plan.personal))
    return Contribution(
        difference({name: after[name] if name in shared else base[name] for name in base}, base),
        {name: round(value, 5) for name, value in metrics.items() if math.isfinite(value)},
        {name: one for name, one in after.items() if name not in shared},
    )
