"""A saved checkpoint in the layout of other libraries: a step of its own, which reads what was saved."""
