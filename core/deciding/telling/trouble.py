"""What was wrong with an answer, in words for people."""

from pointsman.core.events import RequestFinished


def trouble(finished: RequestFinished) -> str:
    """What a status and a cause do not tell; empty where there is nothing to add."""
    if finished.unanswered:
        return "no server answered: the gateway made this response itself"
    return f"the server told an error in its answer: {finished.error}" if finished.error else ""
