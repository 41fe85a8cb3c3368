"""Files that `curie models new` copies for a person to change. Nothing here is imported."""
