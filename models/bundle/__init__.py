"""Parts of the import of a MONAI bundle (models/bundle_import.py): a bundle is read as data, never run."""
