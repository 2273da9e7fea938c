"""What is behind the routes, free of HTTP: the answering flow, admission, accounts, health."""

import smoothgate.compat.repaired_imports  # noqa: F401
