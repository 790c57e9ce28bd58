"""What runs inside Ray: the router, and one backend per model version."""
