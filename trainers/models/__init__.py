"""The networks: encoder, Barlow Twins, detector."""
