"""Foresay: embeddings of what a language model would answer."""

__version__ = "0.1.0"
