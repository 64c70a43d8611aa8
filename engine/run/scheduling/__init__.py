"""What the scheduler is made of."""
