"""What is trained or measured per model so that smoothing serves it well: calibration (centre and scale)."""

import smoothgate.compat.repaired_imports  # noqa: F401
