"""Errors: one bad field, and all of them at once."""

from typing import NoReturn

import pytest

from kit.errors import InvalidInput, NotFound, Violation, Violations


def refuse(field: str, description: str, reason: str = "INVALID_FIELD") -> NoReturn:
    """Fail as a parser does."""
    raise InvalidInput.of(field, description, reason)


def test_one_bad_field_is_named_in_message_and_violation() -> None:
    """The shortcut for a single field says the same to people and to programs."""
    error = InvalidInput.of("quantity", "must be at least 0")

    assert (error.reason, str(error), error.violations) == (
        "INVALID_FIELD",
        "quantity: must be at least 0",
        (Violation("quantity", "must be at least 0"),),
    )


def test_every_bad_field_is_reported_at_once() -> None:
    """What can be read is answered, what cannot is collected, and one error tells all."""
    violations = Violations()

    read = violations.take("name", lambda: "tokens")
    violations.take("quantity", lambda: refuse("quantity", "must be at least 0"))
    violations.add("unit", "is required")
    with pytest.raises(InvalidInput) as raised:
        violations.raise_if_any()

    assert read == "tokens"
    assert (raised.value.reason, str(raised.value), raised.value.violations) == (
        "INVALID_FIELD",
        "2 fields are invalid; the first is quantity: must be at least 0",
        (Violation("quantity", "must be at least 0"), Violation("unit", "is required")),
    )


def test_nothing_bad_raises_nothing() -> None:
    """A collector that collected nothing lets the request pass."""
    violations = Violations()
    violations.take("name", lambda: "tokens")

    violations.raise_if_any()


@pytest.mark.parametrize(
    ("named", "path"),
    [
        pytest.param("tiers[2]", "tiers[2]", id="the field itself"),
        pytest.param("tiers[2].up_to", "tiers[2].up_to", id="a whole path"),
        pytest.param("up_to", "tiers[2].up_to", id="a part"),
        pytest.param("tiers", "tiers[2].tiers", id="a part of a similar name"),
    ],
)
def test_a_nested_field_gets_its_whole_path(named: str, path: str) -> None:
    """A parser may name its own part; the collector knows where it belongs."""
    violations = Violations()
    violations.take("tiers[2]", lambda: refuse(named, "is bad"))

    with pytest.raises(InvalidInput) as raised:
        violations.raise_if_any()

    assert raised.value.violations == (Violation(path, "is bad"),)


@pytest.mark.parametrize(
    ("second", "reason", "metadata"),
    [
        pytest.param("UNKNOWN_METER", "UNKNOWN_METER", {"meter_id": "m"}, id="the same reason"),
        pytest.param("INVALID_FIELD", "INVALID_FIELD", {}, id="different reasons"),
    ],
)
def test_reason_and_metadata_are_those_all_share(
    second: str, reason: str, metadata: dict[str, str]
) -> None:
    """A special reason, and what belongs to it, survive only when every violation has it."""
    violations = Violations()

    def unknown() -> NoReturn:
        raise InvalidInput("UNKNOWN_METER", "is unknown", metadata={"meter_id": "m"})

    violations.take("a", unknown)
    violations.take("b", lambda: refuse("b", "is bad", second))

    with pytest.raises(InvalidInput) as raised:
        violations.raise_if_any()

    assert (raised.value.reason, raised.value.metadata) == (reason, metadata)


def test_an_error_without_violations_is_blamed_on_the_field() -> None:
    """A parser that only raises a message still yields a named field."""
    violations = Violations()

    def parse() -> NoReturn:
        raise InvalidInput("INVALID_FIELD", "cannot be read")

    violations.take("payload", parse)
    with pytest.raises(InvalidInput) as raised:
        violations.raise_if_any()

    assert raised.value.violations == (Violation("payload", "cannot be read"),)


def test_other_errors_are_not_collected() -> None:
    """Only bad input is a violation; what is not found is told at once."""

    def look_up() -> NoReturn:
        raise NotFound("METER_NOT_FOUND", "no meter has this id")

    with pytest.raises(NotFound):
        Violations().take("meter_id", look_up)
