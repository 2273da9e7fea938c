"""The photographs model: a LLaVA that answers questions about CIFAR-10 pictures, and its training."""
