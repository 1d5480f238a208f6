"""Requests and responses, one file a group of routes; OpenAI's shapes where OpenAI has them.

Unknown options are refused by name: an option that is accepted is honoured.
"""
