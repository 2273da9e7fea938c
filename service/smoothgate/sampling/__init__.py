"""Randomised smoothing of the encoder: noise, the unit of work, and the thread that draws all samples."""
