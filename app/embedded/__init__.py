"""Everything that `countersign up` starts on one machine: database, identity provider, MLflow, gateway, worker, Ray.

Real parts with small settings, for a first look, for demos and for tests. In production each of them is yours, and
none of this package runs.
"""
