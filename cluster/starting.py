"""The start of a task that goes on for ever, said once."""

import trio


class Start:
    """Says once that a task has started."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._status: trio.TaskStatus[None] | None = task_status

    def done(self) -> None:
        """Say so, if that was not said before."""
        if self._status is not None:
            self._status.started()
            self._status = None

    async def done_after(self, seconds: float) -> None:
        """Say so after some time."""
        await trio.sleep(seconds)
        self.done()
