"""Cluster: where code runs, how it is configured, and who I am among the ranks."""
