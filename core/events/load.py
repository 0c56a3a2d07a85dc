"""Facts about the load of model servers, as the scraper saw it."""

from pointsman.core.values.facts import Fact


class LoadSampled(Fact, frozen=True, tag="load-sampled"):
    """Many endpoints answered a scrape: one packed column per attribute, in the order of `endpoints`."""

    endpoints: bytes
    """Packed numbers, ascending."""
    sampled_at: float
    """Time at which the last of them answered."""
    earlier: bytes
    """Packed milliseconds: how long before `sampled_at` each answered."""
    waiting: bytes
    """Packed counts of requests in the server's queue."""
    running: bytes
    """Packed counts of requests the server works on."""
    kv_cache: bytes
    """Used share of the KV cache, 0 to 1, by `pack_floats`."""


class LabelsChanged(Fact, frozen=True, tag="labels-changed"):
    """The LoRA adapters of a server, the size of its cache, or whether it sleeps changed."""

    endpoint: int
    lora_running: tuple[str, ...] = ()
    lora_waiting: tuple[str, ...] = ()
    lora_max: int = 0
    cache_block_tokens: int = 0
    cache_blocks: int = 0
    lora_told: bool = True
    """Whether the page tells of adapters; one that does not says that none is loaded."""
    asleep: bool = False
    """Whether the engine sleeps: it has given its memory away, and serves nothing until it is woken."""


class ServerStarted(Fact, frozen=True, tag="server-started"):
    """The page tells when its server's process started; another time than before is another process.

    What the former process held is gone: cached prompts, adapters, and what is known of its cache.
    """

    endpoint: int
    started_at: float


class PrefixBlockSized(Fact, frozen=True, tag="prefix-block-sized"):
    """Prompts for a pool are hashed in blocks of this size from here on, until its servers are others."""

    pool: str
    tokens: int
    before: int = 0
    """Tokens until here; 0 where none had been chosen."""


class ScrapeFailed(Fact, frozen=True, tag="scrape-failed"):
    """Scrapes failed: how old each sample now is, by the scraper's own clock; endpoints are packed, ascending."""

    endpoints: bytes
    ages: bytes
    """Packed milliseconds from last success to this attempt; `NEVER_SAMPLED` without a success."""
    causes: tuple[tuple[int, str], ...] = ()
    """Endpoint and what happened, only where that differs from the attempt before."""
    unreadable: bytes = b""  # packed numbers of those that answered, only not with a page that can be read


NEVER_SAMPLED = 2**32 - 1  # as an age in milliseconds it would be fifty days


class ScrapePaced(Fact, frozen=True, tag="scrape-paced"):
    """The scrape interval and the staleness threshold in force, in seconds."""

    interval: float
    threshold: float
