"""What a defence reaches, measured: tables, plots and their figures as JSON."""
