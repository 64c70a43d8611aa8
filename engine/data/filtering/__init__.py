"""Rows left out by conditions on their columns and folders."""
