"""What each account asks for, in the metrics; of the first hundred accounts, the others together."""

from __future__ import annotations

from smoothgate import metrics
from smoothgate.gate.accounts import Account

#: More would be too many series for Prometheus, and an accounts file has no limit.
MOST = 100
#: No account can have this name.
OTHERS = "(others)"


class AccountMetrics:
    """Counts by the names of accounts, in the order in which they come.

    Args:
        most: names that are shown.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._shown: set[str] = set()

    def asked(self, account: Account) -> None:
        """A request came with the key of this account."""
        metrics.ACCOUNT_REQUESTS.labels(self._name(account)).inc()

    def refused(self, account: Account, code: str) -> None:
        """A limit of this account was reached."""
        metrics.ACCOUNT_REFUSALS.labels(self._name(account), code).inc()

    def worked(self, account: Account, work: int) -> None:
        """So much work was charged, or given back where it is negative."""
        counter = metrics.ACCOUNT_WORK if work >= 0 else metrics.ACCOUNT_WORK_RETURNED
        counter.labels(self._name(account)).inc(abs(work))

    def used(self, account: Account, tokens: int) -> None:
        """So many tokens were read and written."""
        metrics.ACCOUNT_TOKENS.labels(self._name(account)).inc(tokens)

    def _name(self, account: Account) -> str:
        if account.name not in self._shown:
            if len(self._shown) >= self._most:
                return OTHERS
            self._shown.add(account.name)
        return account.name
