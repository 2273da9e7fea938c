"""The command-line tool `smoothgate`: its commands, and `main`, which puts them together."""
