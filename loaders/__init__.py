"""Loaders: a shard set in, batches on the device out; who reads what is a pure function."""
