"""Who sets the targets: embedders of responses, and how to make one."""
