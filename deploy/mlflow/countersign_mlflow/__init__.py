"""An MLflow server that listens to Countersign alone."""
