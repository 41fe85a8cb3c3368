"""What all parts of package.json are made of: closed, frozen values and the number types they share.

It must never import anything slow: the command line and dispatch read packages too.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from appliance.finding import Code

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[Positive, Positive, Positive]
Text = Annotated[str, Field(min_length=1, max_length=4000)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Colour = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]


class Closed(BaseModel):
    """A value whose keys are all known and which never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CodeValue(Closed):
    """A coded concept; the scheme is SNOMED CT ("SCT") unless said."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: Name
    scheme: Annotated[str, Field(min_length=1, max_length=16)] = "SCT"

    def as_code(self) -> Code:
        """Return the same concept as findings carry it."""
        return Code(self.value, self.scheme, self.meaning)
