"""What is trained or measured per model for smoothing: purifier, mapper and calibration."""

import smoothgate.compat.repaired_imports  # noqa: F401
