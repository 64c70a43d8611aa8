"""Everything about getting it done."""
