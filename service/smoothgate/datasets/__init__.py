"""Whole data sets: their pictures, the certificates in one table (here or on Ray), what the table says."""
