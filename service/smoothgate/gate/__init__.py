"""What is behind the routes, free of HTTP: the answering flow, admission, accounts, health."""
