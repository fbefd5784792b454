"""Work waits for those who are about to share it, and for nobody else."""

from kit.gathering import Gathering


def turns_until_it_begins(gathering: Gathering, *counts: int) -> int:
    """Count the turns that are waited, when so many have come in each; the last count stays."""
    for turn in range(1_000):
        if not gathering.may_grow(counts[min(turn, len(counts) - 1)]):
            return turn
    raise AssertionError("it waits for ever")


def test_a_lone_caller_does_not_wait() -> None:
    """Neither the first one, nor after work for one."""
    gathering = Gathering(enough=4, quiet_turns=3)
    first = turns_until_it_begins(gathering, 1)
    gathering.begin(1)

    assert [first, turns_until_it_begins(gathering, 1)] == [0, 0]


def test_after_shared_work_it_waits_while_turns_bring_more() -> None:
    """Each arrival is good for some more turns."""
    gathering = Gathering(enough=10, quiet_turns=3)
    gathering.begin(2)

    assert turns_until_it_begins(gathering, 1) == 3
    gathering.begin(2)
    assert turns_until_it_begins(gathering, 1, 1, 2, 2, 3) == 7


def test_enough_begin_at_once() -> None:
    """Whoever came after them is for the next time."""
    gathering = Gathering(enough=4, quiet_turns=3)
    gathering.begin(4)

    assert turns_until_it_begins(gathering, 1, 3, 5) == 2


def test_a_lone_caller_may_be_worth_some_turns() -> None:
    """Where work is dear."""
    gathering = Gathering(enough=4, quiet_turns=8, quiet_turns_alone=2)
    gathering.begin(1)

    assert turns_until_it_begins(gathering, 1) == 2
