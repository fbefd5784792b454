"""A circuit breaker: after some failures in a row nobody asks, but for one who tries now and then.

Closed, everybody asks. Open, nobody does. Half open, which is when its pause has passed, the next
one asks for all, and the pause begins anew; his success closes it. A value: whoever keeps one is
told the instant and what became of what he asked.
"""

from dataclasses import dataclass

FAILURES_MAX = 3
PAUSE_MS = 100


@dataclass(frozen=True, slots=True)
class Breaker:
    """How what is asked has fared.

    Args:
        failures_count: How many have failed since the last success.
        open_until_ms: When the next one may try; 0 while it is closed.
    """

    failures_count: int = 0
    open_until_ms: int = 0

    def admits(self, now_ms: int) -> bool:
        """Tell whether to ask at all."""
        return now_ms >= self.open_until_ms

    def asking(self, now_ms: int) -> "Breaker":
        """Let one ask who was admitted: where it is open, he tries for all."""
        if not self.open_until_ms:
            return self
        return Breaker(self.failures_count, now_ms + PAUSE_MS)

    def failed(self, now_ms: int) -> "Breaker":
        """Count a failure, the last one that is allowed of which opens."""
        failures_count = self.failures_count + 1
        if failures_count < FAILURES_MAX:
            return Breaker(failures_count, self.open_until_ms)
        return Breaker(failures_count, max(self.open_until_ms, now_ms + PAUSE_MS))


CLOSED = Breaker()
"""What a success leads to, and how it begins."""
