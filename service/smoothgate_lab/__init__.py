"""Training and evaluation of the bundled models, attacks, benchmarks and simulations (extra `lab`)."""
