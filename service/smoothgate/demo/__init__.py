"""The files of the bundled demo model, and how its training pictures look."""
