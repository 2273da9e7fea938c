"""How the bundled demo model is made: data, training recipe, evaluation."""
