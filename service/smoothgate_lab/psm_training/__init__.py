"""The training of purifier and mapper for a model."""
