"""Smoothgate: certified visual robustness in front of vLLM."""

__version__ = "0.1.0"
