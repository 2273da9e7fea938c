"""How fast the service is, beside the plainest ways to do the same: `smoothgate bench`."""
