"""Everything that speaks DICOM, on the wire or in a file."""
