"""The packages that ship, each with the recipe that made it. A recipe must never run at import."""
