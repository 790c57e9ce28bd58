"""What serving through our Ray Serve deployer costs, and what an update, a rollback and a promotion look like from
outside: beside ``mlflow models serve``, MLServer and Ray Serve as one would use it without us.

``python -m bench.serving``
"""
