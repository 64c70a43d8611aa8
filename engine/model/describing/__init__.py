"""What a model is and what ails it, told from its files."""
