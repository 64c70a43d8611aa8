"""Everything about the graph."""
