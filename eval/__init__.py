"""Evaluation: predictions in, numbers with their intervals out."""
