"""A stand-in for a Kubernetes cluster that runs KServe: see README.md."""
