"""Queries, responses, targets, and the pairs that training reads: what lies in files between the steps."""
