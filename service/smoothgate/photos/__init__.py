"""The files of the bundled photographs model."""
