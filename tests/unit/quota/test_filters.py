"""What a filter may say, and which calls it is true of."""

import pytest

from services.quota.filters import BadFilter, Filter, check_filter
from tests.quota_builders import a_subject

A_CALL = a_subject("acme", project="search")
DIMENSIONS = (("model", "gpt-4o"), ("region", "eu"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('dimensions["model"].startsWith("gpt-4")', True),
        ('dimensions.model in ["gpt-4o", "gpt-5"] && dimensions.region != "us"', True),
        ('dimensions.model.matches("^gpt-[0-9]+$")', False),
        ('customer == "acme" ? project == "search" : false', True),
        ('!(dimensions.region == "eu")', False),
        ('"tier" in dimensions', False),
        ('size(dimensions.model) > 3 && dimensions.model.endsWith("o")', True),
        ('has(dimensions.tier) && dimensions.tier == "batch"', False),
    ],
)
def test_a_filter_is_true_of_some_calls(text: str, expected: bool) -> None:  # noqa: FBT001 - a column of the table.
    """It compares the path and the dimensions of the call with texts."""
    check_filter(text)

    assert Filter(text).is_true_of(A_CALL, DIMENSIONS) is expected


@pytest.mark.parametrize(
    "text",
    [
        'dimensions["tier"] == "batch"',
        'dimensions["tier"] != "batch"',
        'key != "k1"',
        '!(run == "r1")',
        'key == "k1" && customer == "acme"',
    ],
)
def test_what_speaks_of_a_name_that_is_missing_is_not_true(text: str) -> None:
    """Neither is its contrary."""
    assert not Filter(text).is_true_of(A_CALL, DIMENSIONS)


def test_a_missing_name_matters_only_where_it_decides() -> None:
    """CEL looks at both sides of an `or`; one that is true suffices."""
    assert Filter('key == "k1" || customer == "acme"').is_true_of(A_CALL, DIMENSIONS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("customer ==", "1:12: Syntax error: mismatched input '<EOF>' expecting"),
        ('customer == "a" customer', "1:17: Syntax error: extraneous input 'customer'"),
        ("((((" * 90, "Recursion limit of 96 exceeded"),
        ('model == "x"', "model is no name here: there are customer, dimensions, key, project,"),
        ("[1, 2].all(n, true)", "not_strictly_false cannot be used here"),
        ('dimensions.exists(n, n == "model")', "n is no name here"),
        ("[1, 2].map(n, 1) == [1, 1]", "+ cannot be used here"),
        ('string(customer) == "a"', "string cannot be used here: texts can be compared, no more"),
        ("customer", "it is neither true nor false"),
        ("dimensions.model", "it is neither true nor false"),
        ('customer[0] == "a"', "No such overload"),
        ('customer.matches("(a")', "regex parse error: (a ^ error: unclosed group"),
        ("Foo{} == 1", "Found struct Foo"),
    ],
)
def test_a_bad_filter_is_refused_with_the_reason(text: str, reason: str) -> None:
    """In one line, before any call is asked about; a loop is refused like an unknown function."""
    with pytest.raises(BadFilter) as refused:
        check_filter(text)

    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_filter_that_cannot_be_applied_to_a_call_says_so() -> None:
    """A pattern out of a dimension may be none."""
    found = Filter("customer.matches(dimensions.pattern)")

    assert found.is_true_of(A_CALL, (("pattern", "^ac"),))
    with pytest.raises(BadFilter, match="unclosed group"):
        found.is_true_of(A_CALL, (("pattern", "(a"),))
