"""Makes the package beside this file. It is yours to change; it is no part of the package and never installed.

Run it with the Python that `curie` runs in. It writes the folder `package`; delete that folder, or raise the version in
package.json, to make it again.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

from safetensors.torch import load_file

from appliance.errors import CurieError
from models.declaration import Declaration
from models.made_up import golden_image
from models.networks import build
from models.package import parse
from models.packaging import write_package

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write the package."""
    logging.disable(logging.WARNING)  # the exporter speaks of itself
    warnings.simplefilter("ignore")
    raw = (HERE / "package.json").read_bytes()
    declaration, declared = parse(Declaration, raw, "package.json"), json.loads(raw)

    # A network by name: models.networks.ARCHITECTURES lists them. If yours is none of these, export it to ONNX and
    # begin with `curie models new --from onnx`.
    network = build(**declared["architecture"])

    # Weights as safetensors. From a network you trained, once:
    #   from safetensors.torch import save_file
    #   save_file(network.state_dict(), "weights.safetensors")
    try:
        network.load_state_dict(load_file(HERE / "weights.safetensors"))
    except RuntimeError as error:
        sys.exit(
            "weights.safetensors does not fit the architecture in package.json: " + str(error).splitlines()[-1].strip()
        )

    # Golden case: one window as the network sees it after preprocess, (channels, x, y[, z]) float32. Every engine is
    # held against the answer to it. A made-up image will do, a synthetic one like real ones is better, and a
    # patient's must never be it: golden cases travel with the package.
    golden = [golden_image(declaration)]

    package = write_package(network, declared, golden, (HERE / "card.md").read_text(), HERE / "package")
    print(f"{package.name} in {package.folder}, digest {package.digest}")


if __name__ == "__main__":
    try:
        main()
    except (CurieError, OSError, ValueError) as error:
        sys.exit(f"not made: {error}")
