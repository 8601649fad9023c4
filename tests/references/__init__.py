"""Slow and plain versions that the fast code is held against."""
