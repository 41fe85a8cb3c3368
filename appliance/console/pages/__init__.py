"""One page a file: what is read from the catalogue, and which template shows it."""
