"""The commands of `smoothgate` that the lab brings."""
