"""Pairs to a checkpoint: in closed form, or by gradient."""
