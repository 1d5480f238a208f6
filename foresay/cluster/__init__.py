"""A step's work on slices of its input: here, in several processes, or on a Ray cluster."""
