"""Routes, one file a group. Each parses, hands the engine what to run, and writes the response."""
