"""What goes wrong for an operator, told in one line."""


class Failure(Exception):
    """The command cannot go on: what was found, and what was wanted."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
        """1 where something is wrong with the world, 2 with the words of the command."""
