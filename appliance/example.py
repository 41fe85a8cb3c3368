"""The commented curie.toml that `curie init` writes."""

from __future__ import annotations

import uuid

EXAMPLE = """# Petite Curie. Unknown keys and bad values refuse to start; docs/operating.md explains every key.

[appliance]
name = "curie"                   # appears in results as the device
uid = "{uid}"
data_dir = "curie-data"          # all state; counts from this file's folder

[receiver]
ae_title = "CURIE"
port = 11112
unknown_sources = "refuse"       # or "accept": AE titles not listed under [[sources]]

[completeness]
after_release_s = 3              # after the last association of a study was released
quiet_s = 30                     # last resort: nothing came for so long
force_s = 900                    # complete whatever happens

[worker]
device = "auto"

# Who may send, and from which addresses:
#[[sources]]
#ae_title = "PACS"
#hosts = ["10.0.0.0/8"]

# Where results go:
#[[destinations]]
#name = "pacs"
#ae_title = "PACS"
#host = "pacs.example.org"
#port = 104
#commitment = true               # ask for storage commitment

# Which studies go to which package, and where its results go:
#[[routes]]
#name = "brain-mr"
#package = "brain-structures"
#destinations = ["pacs"]
#match = {{ Modality = "MR", BodyPartExamined = ["BRAIN", "HEAD"] }}
"""


def example_settings() -> str:
    """Return the text, with an appliance UID of its own."""
    return EXAMPLE.format(uid=f"2.25.{uuid.uuid4().int}")
