"""How purifier and mapper are trained for a model."""
