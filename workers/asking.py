"""What a coordinator asks of a site in one round, and how a site says no: bytes of safetensors, or of one sentence.

Both sides import it. It must never read a file, open a connection, or take a word of a peer for an instruction: a
question names an installed package and numbers within limits, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from appliance.errors import RoundRefused
from models.closed import Closed, Positive
from models.federation import Question, Weights, as_halves, decode_base, digest_of, encode_base, from_halves

LARGEST = 2 * 2**30  # bytes of a base
ABSTAINS = b"abstains: "  # read as the length of a safetensors header it is absurd: no update begins so
LONGEST_REASON = 200
TRAIN, TAKE = "train", "take"  # the tasks a site knows
CONTENT = "content"  # the one key of what is exchanged

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,79}$")]


class Ask(Closed):
    """What stands beside the weights of a base."""

    cycle: Identifier
    round: int = Field(ge=1, le=10_000)
    base: Digest  # of the weights, as they arrive
    package: Identifier
    version: Identifier
    package_digest: Digest
    steps: int = Field(ge=1, le=100_000)
    batch: int = Field(ge=1, le=64)
    learning_rate: Positive
    proximal: float = Field(ge=0, le=100)
    clip_norm: Positive
    seed: int = Field(ge=0)

    def question(self, site: str) -> Question:
        """Return the question that a site's update answers."""
        return Question(self.cycle, self.round, self.base, site)


def ask_bytes(weights: Weights, about: Mapping[str, Any]) -> tuple[bytes, dict[str, Any], Ask]:
    """Return the bytes of a question, the base as sites will read it (halves), and the question.

    `about`: the fields of Ask but `base`.
    """
    halves = as_halves(weights)
    seen = from_halves(halves)
    ask = Ask.model_validate({**about, "base": digest_of(seen)})
    return encode_base(halves, ask.model_dump()), seen, ask


def read_ask(content: bytes) -> tuple[dict[str, Any], Ask]:
    """Return base weights and question. Raises RoundRefused for what is no question of ours or another base."""
    weights, about = decode_base(content, LARGEST)
    try:
        ask = Ask.model_validate(about)
    except ValidationError as error:
        fault = error.errors()[0]
        raise RoundRefused(f"the question is not understood: {fault['loc']}: {fault['msg']}") from None
    if digest_of(weights) != ask.base:
        raise RoundRefused("the base is not the one that the question names")
    return weights, ask


def abstention(reason: str) -> bytes:
    """Return the bytes with which a site sits a round out."""
    line = "".join(c if c.isprintable() else " " for c in reason)
    return ABSTAINS + line[:LONGEST_REASON].encode()


def reason_of(content: bytes) -> str | None:
    """Return why a site abstains, None where the bytes are something else."""
    if not content.startswith(ABSTAINS) or len(content) > len(ABSTAINS) + 4 * LONGEST_REASON:
        return None
    line = content[len(ABSTAINS) :].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in line)[:LONGEST_REASON]
