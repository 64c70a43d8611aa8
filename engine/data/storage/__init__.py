"""Where files lie and how they are reached: local paths, object stores, and whatever pyarrow and fsspec speak to."""
