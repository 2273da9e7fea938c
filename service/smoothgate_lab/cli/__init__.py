"""The lab's commands of `smoothgate`."""
