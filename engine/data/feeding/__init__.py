"""The values of bound columns as the arrays that a session takes."""
