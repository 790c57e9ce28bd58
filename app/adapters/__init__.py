"""The outside world, one driver each: PostgreSQL, MLflow, the identity provider, storage, webhook receivers."""
