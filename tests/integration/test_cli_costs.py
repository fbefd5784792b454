"""What providers charge, at the command line: imported, listed and shown."""

from tests.shell import Shell


async def test_costs_are_imported_once_and_shown(shell: Shell) -> None:
    """The same prices again change nothing; every digit is shown."""
    file = shell.folder / "prices.json"
    file.write_text(
        '{"openai/gpt-5": {"litellm_provider": "openai", "input_cost_per_token": 1.25e-06,'
        ' "cache_read_input_token_cost": 1.25e-07, "input_dbu_cost_per_token": 1}}'
    )

    first = await shell.lines("costs", "import", file, "--since", "2026-01-01")
    second = await shell.json("costs", "import", file, "--since", "2026-01-01")

    assert first == [
        "costs: 1 of 1",
        "left out input_dbu_cost_per_token of 1 models: it has no counterpart",
        "1 costs are new, 0 were there",
    ]
    assert (second["created"], second["unchanged"], second["rates"]) == (0, 1, 2)
    assert await shell.lines("costs", "show", "gpt-5", "--time", "2026-02-01") == [
        "",
        "== gpt-5 of openai, revision 1",
        "since 2026-01-01 00:00 UTC, in USD for one unit",
        "quantity             part of             costs",
        "cached_input_tokens  input_tokens  0.000000125",
        "input_tokens                        0.00000125",
    ]


async def test_costs_are_listed_by_provider_model_and_revision(shell: Shell) -> None:
    """Every revision has a row; what does not fit is told, and can be narrowed down."""
    nothing = await shell.lines("costs", "list")
    file = shell.folder / "prices.json"
    for since, price in (("", "2e-06"), ("2026-01-01", "1e-06")):
        file.write_text(
            f'{{"openai/gpt-5": {{"litellm_provider": "openai", "input_cost_per_token": {price}}},'
            ' "b": {"litellm_provider": "a", "input_cost_per_token": 1, "output_cost_per_token": 2}'
            "}"
        )
        await shell.lines("costs", "import", file, *(("--since", since) if since else ()))

    assert nothing == ["no costs are known; `tollkeeper costs import` reads LiteLLM's price list"]
    assert await shell.lines("costs", "list") == [
        "provider  model  revision  since                 currency  rates",
        "a         b             1  ever                  USD           2",
        "a         b             2  2026-01-01 00:00 UTC  USD           2",
        "openai    gpt-5         1  ever                  USD           1",
        "openai    gpt-5         2  2026-01-01 00:00 UTC  USD           1",
    ]
    assert (await shell.lines("costs", "list", "--provider", "openai", "--limit", 1))[1:] == [
        "openai    gpt-5         1  ever   USD           1",
        "and more: see them by --limit, now 1, --provider or --model",
    ]
    listed = await shell.json("costs", "list", "--model", "b")
    assert [each["revision"] for each in listed["costs"]] == [1, 2]
    assert listed["has_more"] is False
