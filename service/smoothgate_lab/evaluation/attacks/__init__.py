"""Attacks on pictures, as functions of a loss or a score."""
