"""Tables of vectors that others made and keep, one file a kind; every file here registers what it knows."""
