"""Lines of budget and measurement, printed as they come."""

import sys

import msgspec

PROGRESS_WIDTH = 78


class BudgetRow(msgspec.Struct, frozen=True):
    """One figure and its budget."""

    what: str
    budget: float | None
    measured: float
    unit: str
    least: bool
    """Whether the budget is a lower bound, because more is better."""

    @property
    def met(self) -> bool | None:
        """Whether it is within its budget; None without one."""
        if self.budget is None:
            return None
        return self.measured >= self.budget if self.least else self.measured <= self.budget


class Table:
    """The rows that were measured; `shown` prints each at once."""

    def __init__(self, *, shown: bool = True) -> None:
        self.rows: list[BudgetRow] = []
        self._shown = shown
        if shown:
            print(f"{'what':58}{'budget':>12}{'measured':>12}  ", flush=True)

    @property
    def missed(self) -> int:
        """The number of budgets that were not met."""
        return sum(row.met is False for row in self.rows)

    def begin(self, what: str) -> None:
        """Show on a terminal what is measured next."""
        self._progress(f"measuring {what}")

    def line(self, what: str, budget: float | None, measured: float, unit: str = "", *, least: bool = False) -> None:
        """Add one row; `least` where more is better."""
        row = BudgetRow(what, budget, measured, unit, least)
        self.rows.append(row)
        self._progress("")
        if not self._shown:
            return
        wanted = "" if budget is None else f"{'≥' if least else '≤'} {budget:,g}"
        verdict = {None: "", True: "met", False: "missed"}[row.met]
        digits = 0 if measured >= 1000 else 1 if measured >= 10 else 2
        print(f"{what:58}{wanted:>12}{measured:12,.{digits}f}  {unit:8}{verdict}", flush=True)

    def _progress(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:{PROGRESS_WIDTH}}\r{text}", end="", file=sys.stderr, flush=True)
