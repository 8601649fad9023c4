"""Trainers: one recipe a file, from batches to checkpoints and predictions."""
