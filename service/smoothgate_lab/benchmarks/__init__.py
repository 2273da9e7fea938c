"""Benchmarks, load tests and cost estimates of the service: `smoothgate bench`."""
