"""The mathematics of the certificate: confidence bounds, the FCSB, the statement, signing. No model, no
torch.
"""
