"""The data, the training recipe and the evaluation of the bundled demo model."""
