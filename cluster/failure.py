"""A failure whose message is for people as it is."""


class Failure(Exception):
    """Told at the console without the name of its class. What was asked for wrongly is a ValueError instead."""
