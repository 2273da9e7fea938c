"""What is trained or measured per model for smoothing: purifier, mapper and calibration."""
