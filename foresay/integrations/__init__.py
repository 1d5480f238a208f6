"""Foresay inside other libraries: a file a host, imported only by who uses it."""
