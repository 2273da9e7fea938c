"""The mathematics of the certificate: confidence bounds, the FCSB, the statement. No model, no torch."""
