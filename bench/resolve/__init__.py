"""What it costs to ask where the bytes are, and to be told: against the two calls of MLflow that it replaces."""
