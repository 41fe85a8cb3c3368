"""pydicom without its own opinion: odd values of a source pass as they are, and no warning quotes them.

pydicom checks values when a dataset is built or written, warns with the value in the text and may refuse it.
A source's odd values (a UID with a leading zero) must reach the result unchanged. This module must never be
used around code that decides anything: it only silences.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.config import disable_value_validation


@contextmanager
def lenient() -> Iterator[None]:
    """Build or write datasets with neither validation nor warnings."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield
