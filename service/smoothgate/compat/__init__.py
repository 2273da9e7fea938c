"""Repairs that let the installed packages work together."""
