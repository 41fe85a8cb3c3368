"""The ground floor of Petite Curie: words, rules, catalogue, settings and the command line."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("petite-curie")
except PackageNotFoundError:  # run from a bare checkout
    __version__ = "0.0.0"
