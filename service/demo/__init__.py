"""The bundled demo model: a small LLaVA that answers questions about scenes of real handwritten digits."""
