"""Sharding: any radiograph in, WebDataset tars and one index out."""
