"""What people write who know MLflow and nothing of Countersign: small programs, each run in a process of its own."""
