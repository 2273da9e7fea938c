"""Training and evaluation of the bundled models, attacks, benchmarks and simulations (extra `lab`)."""

import smoothgate.compat.repaired_imports  # noqa: F401
