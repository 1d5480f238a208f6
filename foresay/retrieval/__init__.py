"""An index that knows its model: documents to a table, queries to hits, and tables that others made."""
