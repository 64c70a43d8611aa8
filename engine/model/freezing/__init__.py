"""From any source to a frozen graph."""
