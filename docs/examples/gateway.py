"""A gateway, in short: ask the gate, call the model, say what it used.

Run `tollkeeper up` first, and give this its key:

    TOLLKEEPER_TOKEN=... python docs/examples/gateway.py
"""

import asyncio

from tollkeeper import QuotaDenied, Tollkeeper


async def answer(toll: Tollkeeper, prompt: str) -> str:
    """Answer a prompt on behalf of a customer, if every limit has room."""
    try:
        async with toll.reserve(
            "acme",
            project="search",
            key="key-1",
            dimensions={"model": "atlas-large"},
            requests=1,
            input_tokens=len(prompt.split()),
            output_tokens=100,
        ) as hold:
            text = f"You said: {prompt}"
            input_tokens, output_tokens = len(prompt.split()), len(text.split())
            hold.commit(
                requests=1,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                total_tokens=input_tokens + output_tokens,
            )
            return text
    except QuotaDenied as denied:
        return f"429, {denied}"


async def main() -> None:
    """Make one call."""
    async with Tollkeeper.from_environment(source="example-gateway") as toll:
        print(await answer(toll, "How much is the toll?"))


asyncio.run(main())
