"""Rows, leases and markers in Redis: the fenced commit, and reading it back."""
