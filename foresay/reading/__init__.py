"""What an embedding holds, in words."""
