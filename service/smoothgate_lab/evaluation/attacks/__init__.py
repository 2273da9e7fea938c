"""Attacks on pictures, as plain functions on a differentiable pipeline."""
