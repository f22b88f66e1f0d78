"""Words for people."""


def counted(number: int, noun: str) -> str:
    """(1, "picture") -> `1 picture`, (3, "picture") -> `3 pictures`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
