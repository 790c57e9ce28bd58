"""What the second signature costs, and what it does not hold up."""
