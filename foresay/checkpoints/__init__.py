"""A checkpoint on disk: saved, loaded, verified, converted, and opened by other libraries."""
