"""The HTTP face: routes, schemas, errors, and what runs behind them."""
