"""How one counter counts, as pure arithmetic.

A counter knows three figures: what was *taken* and has not drained, what of it is *settled*, and
what open holds *hold*. One rule serves every kind of window:

- A call passes when taken + amount stays within the limit's room.
- A reserve takes its amounts. A hold is settled when its call is committed, released or expires:
  what was really used stays taken and becomes settled, what exceeds the hold is taken in addition.
- A window that follows the calendar forgets what is settled when it turns, but not what is held: an
  open hold is booked in the window in which it is settled.
- A rolling rate is a token bucket that counts debt: it drains by `drain` parts each millisecond,
  and a quantum is `scale` parts, so that every rate is exact (RFC 2697 counts tokens instead).
- A limit without a window forgets nothing. One that counts open holds, a gauge, is taken one of by
  each reserve, and nothing is ever booked on it.

After a hold was settled, no more stays taken than what is settled plus what is still held. In a
calendar window this is plain subtraction. In a rolling rate it is what makes giving back safe: part
of a hold's amount has drained while it was open, and giving all of it back would let others take
that part twice. The figure is never lower than if the hold had not been, and equal when no other
hold is open.

Refuses to be exact beyond `TAKEN_MAX` parts, where a counter stays; `model.QUANTITY_MAX` and the
bounds of a limit keep every decision far below.
"""

from dataclasses import dataclass, replace

TAKEN_MAX = 2**52
ROOM_MAX = 2**50
GAUGE = "#"
"""What only the names of counters have that count open holds."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a limit counts at the present.

    Args:
        room: How many parts can be taken.
        drain: How many parts drain each millisecond; 0 in a calendar window.
        scale: How many parts a quantum has.
        window_end_ms: When the calendar window ends; 0 when none does.
        window_start_ms: When it started.
        refuses: Whether a call for which there is no room is refused.
    """

    room: int
    drain: int = 0
    scale: int = 1
    window_end_ms: int = 0
    window_start_ms: int = 0
    refuses: bool = True


@dataclass(frozen=True, slots=True)
class Counter:
    """The state of one limit for one subject.

    Args:
        stamp_ms: Until when it has drained; in a calendar window, when that ends; 0 for neither.
        taken: Parts that were taken and have not drained.
        settled: Parts of them that no hold is open for.
        held: Quanta that open holds took.
    """

    stamp_ms: int
    taken: int
    settled: int
    held: int
    drain: int
    scale: int

    @classmethod
    def fresh(cls, rule: Rule, now_ms: int) -> "Counter":
        """Make the counter of which nothing was taken."""
        stamp_ms = now_ms if rule.drain else rule.window_end_ms
        return cls(stamp_ms, 0, 0, 0, rule.drain, rule.scale)

    def at(self, instant_ms: int) -> "Counter":
        """Let time pass: drain, or turn the window."""
        if self.drain:
            drained = self.drain * max(instant_ms - self.stamp_ms, 0)
            return replace(
                self,
                stamp_ms=max(instant_ms, self.stamp_ms),
                taken=max(self.taken - drained, 0),
                settled=max(self.settled - drained, 0),
            )
        if 0 < self.stamp_ms <= instant_ms:
            return replace(self, stamp_ms=0, taken=self.held, settled=0)
        return self

    def under(self, rule: Rule, now_ms: int) -> "Counter":
        """Go on by a rule, which may differ from the one it was kept by: then in whole quanta."""
        counter = self.at(now_ms)
        if (counter.drain, counter.scale) != (rule.drain, rule.scale):
            settled = min(_whole(counter.settled, counter.scale) * rule.scale, TAKEN_MAX)
            taken = min(_whole(counter.taken, counter.scale) * rule.scale, TAKEN_MAX)
            counter = Counter(
                stamp_ms=now_ms,
                taken=taken if rule.drain else settled + counter.held,
                settled=settled,
                held=counter.held,
                drain=rule.drain,
                scale=rule.scale,
            )
        return counter if rule.drain else replace(counter, stamp_ms=rule.window_end_ms)

    def admits(self, rule: Rule, amount: int) -> bool:
        """Tell whether an amount fits; nothing always does."""
        return amount == 0 or self.taken + amount * self.scale <= rule.room

    def room_left(self, rule: Rule) -> int:
        """Answer how many whole quanta fit; below zero where too many were taken."""
        return (rule.room - self.taken) // self.scale

    def taking(self, amount: int) -> "Counter":
        """Let a hold take an amount."""
        return replace(self, taken=self.taken + amount * self.scale, held=self.held + amount)

    def settling(self, *, held: int, actual: int) -> "Counter":
        """End a hold, or none, and book what was really used, in full."""
        held = min(held, self.held)
        kept = min(actual, held)
        extra = min((actual - kept) * self.scale, TAKEN_MAX)
        settled = min(min(self.settled + kept * self.scale, self.taken) + extra, TAKEN_MAX)
        taken = min(self.taken + extra, TAKEN_MAX)
        still_held = self.held - held
        return replace(
            self,
            settled=settled,
            taken=min(taken, settled + still_held * self.scale),
            held=still_held,
        )

    def recording(self, rule: Rule, amount: int, event_ms: int, now_ms: int) -> "Counter":
        """Book what was used at an instant that may be past: what of it would count still."""
        if self.drain:
            drained = self.drain * max(now_ms - event_ms, 0)
            parts = min(max(amount * self.scale - drained, 0), TAKEN_MAX)
            return replace(
                self,
                settled=min(self.settled + parts, TAKEN_MAX),
                taken=min(self.taken + parts, TAKEN_MAX),
            )
        return self if event_ms < rule.window_start_ms else self.settling(held=0, actual=amount)

    def unbooking(self, amount: int, booked_ms: int, stamp_ms: int, now_ms: int) -> "Counter":
        """Take back what was booked at an instant, as far as it counts still.

        In a calendar window it does until that has turned, which its end tells.
        """
        parts = amount * self.scale
        if self.drain:
            parts = max(parts - self.drain * (now_ms - booked_ms), 0)
        elif self.stamp_ms != stamp_ms:
            parts = 0
        parts = min(parts, self.settled)
        return replace(self, settled=self.settled - parts, taken=self.taken - parts)

    def figures(self, now_ms: int) -> tuple[int, int, int]:
        """Show what is used, what is reserved, and how long until it is reset; -1 for never."""
        used, total = _whole(self.settled, self.scale), _whole(self.taken, self.scale)
        if self.drain:
            reset_ms = _whole(self.taken, self.drain)
        else:
            reset_ms = self.stamp_ms - now_ms if self.stamp_ms else -1
        return used, total - used, reset_ms

    def wait_ms(self, rule: Rule, amount: int, now_ms: int, last_expiry_ms: int) -> int:
        """Say how long until an amount fits; 0 when it never does, -1 when it fits now.

        Where open holds are in the way, it fits at the latest when the last one of the customer
        has expired; where booked usage is, when the window turns.
        """
        if self.admits(rule, amount):
            return -1
        parts = amount * self.scale
        if parts > rule.room:
            return 0
        if self.drain:
            return _whole(self.taken + parts - rule.room, self.drain)
        expiry_ms = max(last_expiry_ms - now_ms, 1)
        turn_ms = self.stamp_ms - now_ms if self.stamp_ms else None
        waits = [expiry_ms] if self.settled + amount <= rule.room else []
        if turn_ms is not None and self.held + amount <= rule.room:
            waits.append(turn_ms)
        if waits:
            return min(waits)
        return 0 if turn_ms is None else max(expiry_ms, turn_ms)


def _whole(parts: int, scale: int) -> int:
    """Divide, rounding up."""
    return -(-parts // scale)
