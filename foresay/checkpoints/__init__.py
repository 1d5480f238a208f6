"""A checkpoint on disk: recorded, saved, loaded, verified, bundled, converted, and exported to other libraries."""
