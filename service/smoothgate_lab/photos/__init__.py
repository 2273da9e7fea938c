"""The photographs model: a LLaVA that answers questions about small photographs, and its training."""
