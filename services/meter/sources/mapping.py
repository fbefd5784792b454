"""Where the parts of a usage event stand in what others send: a YAML file, or the defaults here.

A place is written `kind:name`, for example `span:customer.id` or `header:x-customer-id`; the first
of several places that holds something counts. Refuses a file with a word it does not know, and
names where the word stands.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from kit.settings import BadSettings

SPAN, RESOURCE, BAGGAGE = "span", "resource", "baggage"
HEADER, RESPONSE_HEADER, RESPONSE_TRAILER, METADATA = (
    "header",
    "response-header",
    "response-trailer",
    "metadata",
)
_OTLP_KINDS = (SPAN, RESOURCE, BAGGAGE)
_ENVOY_KINDS = (HEADER, RESPONSE_HEADER, RESPONSE_TRAILER, METADATA)
_CALL = "llm.call"


class Place(NamedTuple):
    """One place to look at."""

    kind: str
    name: str

    def __str__(self) -> str:
        """Write it as in the file."""
        return f"{self.kind}:{self.name}"


def _read_places(written: Any) -> Any:  # noqa: ANN401 - whatever YAML holds.
    texts = written if isinstance(written, list | tuple) else [written]
    return tuple(_read_place(text) for text in texts)


def _read_place(text: object) -> object:
    if isinstance(text, Place):
        return text
    if not isinstance(text, str) or not all(text.partition(":")):
        raise ValueError("must be a place such as span:customer.id")
    kind, _, name = text.partition(":")
    return Place(kind, name.lower() if kind in {HEADER, RESPONSE_HEADER} else name)


def _of_kinds(kinds: tuple[str, ...]) -> AfterValidator:
    def check(places: tuple[Place, ...]) -> tuple[Place, ...]:
        for place in places:
            if place.kind not in kinds:
                raise ValueError(f"{place} is of none of the kinds {', '.join(kinds)}")
            if place.kind == METADATA and not all(place.name.partition("/")):
                raise ValueError(f"{place} must read metadata:<namespace>/<key>")
        return places

    return AfterValidator(check)


SpanPlaces = Annotated[tuple[Place, ...], BeforeValidator(_read_places), _of_kinds(_OTLP_KINDS)]
AttributePlaces = Annotated[tuple[Place, ...], BeforeValidator(_read_places), _of_kinds((SPAN,))]
EntryPlaces = Annotated[tuple[Place, ...], BeforeValidator(_read_places), _of_kinds(_ENVOY_KINDS)]


def _attributes(*names: str) -> tuple[Place, ...]:
    """Name the attributes of a quantity, the older names last."""
    return tuple(Place(SPAN, f"gen_ai.usage.{name}") for name in names)


class OtlpMapping(BaseModel):
    """Where a usage event stands in a span; by default where the conventions have it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = _CALL
    """The type of the events."""
    operations: tuple[str, ...] = ("chat", "text_completion", "generate_content", "embeddings", "")
    """The `gen_ai.operation.name`s that are usage. Spans of agents and workflows repeat the tokens
    of the calls inside them, so they are none. An empty one stands for spans without it, which are
    usage when they tell a model and tokens: not all instrumentation writes it."""
    ignored_scopes: tuple[str, ...] = ()
    """Instrumentation whose spans are left out, as another one reports the same calls."""
    customer: SpanPlaces = (
        Place(SPAN, "customer.id"),
        Place(BAGGAGE, "customer.id"),
        Place(RESOURCE, "customer.id"),
    )
    project: SpanPlaces = ()
    user: SpanPlaces = ()
    key: SpanPlaces = ()
    run: SpanPlaces = ()
    dimensions: dict[str, SpanPlaces] = {
        "model": (Place(SPAN, "gen_ai.request.model"), Place(SPAN, "gen_ai.response.model")),
        "provider": (Place(SPAN, "gen_ai.provider.name"), Place(SPAN, "gen_ai.system")),
        "operation": (Place(SPAN, "gen_ai.operation.name"),),
    }
    quantities: dict[str, AttributePlaces] = {
        "input_tokens": _attributes("input_tokens", "prompt_tokens"),
        "cached_input_tokens": _attributes("cache_read.input_tokens"),
        "cache_write_input_tokens": _attributes(
            "cache_write.input_tokens", "cache_creation.input_tokens"
        ),
        "output_tokens": _attributes("output_tokens", "completion_tokens"),
        "reasoning_tokens": _attributes("reasoning.output_tokens"),
    }
    """Those of the cache are a part of `input_tokens`, those of reasoning of `output_tokens`."""


class EnvoyMapping(BaseModel):
    """Where a usage event stands in an entry of an access log; by default of Envoy AI Gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = _CALL
    """The type of the events."""
    source: str = "envoy"
    """Who reports them."""
    customer: EntryPlaces = (Place(HEADER, "x-customer-id"),)
    project: EntryPlaces = ()
    user: EntryPlaces = ()
    key: EntryPlaces = ()
    run: EntryPlaces = ()
    dimensions: dict[str, EntryPlaces] = {
        "model": (
            Place(METADATA, "io.envoy.ai_gateway/model_name_override"),
            Place(HEADER, "x-ai-eg-model"),
        ),
    }
    quantities: dict[str, EntryPlaces] = {
        "input_tokens": (Place(METADATA, "io.envoy.ai_gateway/llm_input_token"),),
        "cached_input_tokens": (Place(METADATA, "io.envoy.ai_gateway/llm_cached_input_token"),),
        "cache_write_input_tokens": (
            Place(METADATA, "io.envoy.ai_gateway/llm_cache_creation_input_token"),
        ),
        "output_tokens": (Place(METADATA, "io.envoy.ai_gateway/llm_output_token"),),
    }


class SourceMapping(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    otlp: OtlpMapping = OtlpMapping()
    envoy: EnvoyMapping = EnvoyMapping()


def load_mapping(file: Path | None) -> SourceMapping:
    """Read the file, or answer the defaults without one.

    Raises:
        BadSettings: it cannot be read; every place with a fault is named.
    """
    if file is None:
        return SourceMapping()
    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadSettings(f"{file} is no YAML: {str(error).splitlines()[0]}") from None
    try:
        return SourceMapping.model_validate({} if written is None else written)
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: "
            + fault["msg"].removeprefix("Value error, ")
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise BadSettings(f"{file}: " + "; ".join(faults)) from None
