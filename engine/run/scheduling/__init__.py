"""What the scheduler is made of, and a simulated cluster for it."""
