"""Everything about Parquet."""
