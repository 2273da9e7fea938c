"""The evaluation of defences: attacks, certificates, tables, plots and figures as JSON."""
