"""A patient asks to be forgotten: images, results and training cases of a study are deleted, the record stays."""

from __future__ import annotations

from pathlib import Path

from appliance.catalogue import Catalogue, forgetting
from appliance.catalogue.connection import now
from appliance.catalogue.forgetting import Left
from appliance.settings import Settings
from appliance.training_set import folder_of


def forget(settings: Settings, catalogue: Catalogue, study: str, who: str, reason: str) -> Left:
    """Forget a study and return what was deleted. Rows first: who was interrupted asks again. Raises Missing."""
    with catalogue.write() as connection:
        left = forgetting.forget(connection, study, who, reason, now())
    places = (
        (settings.spool_dir, left.images),
        (settings.results_dir, left.results),
        (folder_of(settings), left.cases),
    )
    for folder, paths in places:
        for path in paths:
            (Path(folder) / path).unlink(missing_ok=True)
    return left
