"""The playground's attack laboratory."""
