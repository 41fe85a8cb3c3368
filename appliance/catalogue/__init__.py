"""The catalogue: the one truth about studies, jobs and results. Only home of SQL.

Tables in `tables`, connections in `connection`, named queries by noun: `receiving`, `routing`, `jobs`,
`outbox`, `processes`, `overview`, `flow`, `users`, `corrections`, `training`. Each write is one short
transaction, alone in the catalogue, with no I/O inside.
"""

from appliance.catalogue import audit as audit
from appliance.catalogue import training_tables as training_tables
from appliance.catalogue import trials as trials
from appliance.catalogue import users as users
from appliance.catalogue.connection import Catalogue, open_catalogue

__all__ = ["Catalogue", "open_catalogue"]
