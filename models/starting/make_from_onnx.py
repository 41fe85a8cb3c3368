"""Makes the package beside this file. It is yours to change; it is no part of the package and never installed.

Run it with the Python that `curie` runs in. It writes the folder `package`; delete that folder, or raise the version in
package.json, to make it again.
"""

import json
import sys
from pathlib import Path

from appliance.errors import CurieError
from models.declaration import Declaration
from models.graph_packaging import write_graph_package
from models.made_up import golden_image
from models.package import parse

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write the package."""
    raw = (HERE / "package.json").read_bytes()
    declaration, declared = parse(Declaration, raw, "package.json"), json.loads(raw)

    # Golden case: one window as the network sees it after preprocess, (channels, x, y[, z]) float32. Every engine is
    # held against ONNX Runtime's answer to it, here and now. A made-up image will do, a synthetic one like real ones is
    # better, and a patient's must never be it: golden cases travel with the package.
    golden = [golden_image(declaration)]

    card = (HERE / "card.md").read_text()
    package = write_graph_package(HERE / "model.onnx", declared, golden, card, HERE / "package")
    print(f"{package.name} in {package.folder}, digest {package.digest}")


if __name__ == "__main__":
    try:
        main()
    except (CurieError, OSError, ValueError) as error:
        sys.exit(f"not made: {error}")
