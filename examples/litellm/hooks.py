"""What LiteLLM loads for `callbacks: hooks.tollkeeper`; it is configured by TOLLKEEPER_*."""

from tollkeeper.integrations.litellm import TollkeeperLogger

tollkeeper = TollkeeperLogger.from_environment()
