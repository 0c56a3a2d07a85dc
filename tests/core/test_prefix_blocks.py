"""A pool has one size of prompt blocks, which changes only when its servers as a whole are others."""

from hypothesis import given, strategies as st

from pointsman.cluster.scraping.block_size import BlockSizes
from pointsman.core.events import (
    EndpointJoined,
    EndpointLeft,
    Event,
    LabelsChanged,
    PoolApplied,
    PoolDeleted,
    PrefixBlockSized,
    ServerStarted,
)
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import decode_snapshot, encode_snapshot

POOL, OTHER = "default/p", "default/other"


class Scraped:
    """A cluster state, and what the scraper says of sizes after each entry."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.sizes = BlockSizes()
        self.said: list[PrefixBlockSized] = []
        for pool in (POOL, OTHER):
            self.tell(PoolApplied(pool, {}, (8000,)))

    def tell(self, event: Event) -> list[PrefixBlockSized]:
        self.state.apply_event(self.state.position + 1, event)
        said = [one for one in self.sizes.due(self.state) if isinstance(one, PrefixBlockSized)]
        for one in said:
            self.state.apply_event(self.state.position + 1, one)
        self.said += said
        return said

    def join(self, number: int, pool: str = POOL) -> list[PrefixBlockSized]:
        return self.tell(
            EndpointJoined(number, pool, f"uid-{number}", "default", f"p-{number}", "10.0.0.1", 8000 + number)
        )

    def labels(self, number: int, tokens: int) -> list[PrefixBlockSized]:
        return self.tell(LabelsChanged(number, cache_block_tokens=tokens))


def test_the_size_is_chosen_when_a_server_first_tells_one() -> None:
    world = Scraped()
    for number in (1, 2, 3):
        assert world.join(number) == []

    assert world.labels(2, 0) == []
    assert world.labels(2, 32) == [PrefixBlockSized(POOL, 32, 0)]
    assert world.labels(1, 64) == []
    assert world.labels(3, 64) == []
    assert world.state.prefix_blocks.tokens(POOL) == 32
    assert world.state.prefix_blocks.tokens(OTHER) == 0


def test_it_is_chosen_anew_when_all_servers_of_that_time_have_left_and_is_the_one_that_most_tell() -> None:
    world = Scraped()
    world.join(1)
    world.labels(1, 16)
    for number, tokens in ((2, 64), (3, 32), (4, 64)):
        world.join(number)
        world.labels(number, tokens)

    assert world.state.prefix_blocks.tokens(POOL) == 16
    assert world.tell(EndpointLeft(1)) == [PrefixBlockSized(POOL, 64, 16)]
    assert world.tell(EndpointLeft(2)) == world.tell(EndpointLeft(4)) == []
    assert world.tell(EndpointLeft(3)) == []
    assert world.state.prefix_blocks.tokens(POOL) == 64, "an empty pool keeps it"
    world.join(5)
    assert world.labels(5, 64) == [PrefixBlockSized(POOL, 64, 64)]


def test_it_stays_while_any_server_tells_it() -> None:
    world = Scraped()
    world.join(1)
    world.labels(1, 16)
    for number, tokens in ((2, 64), (3, 64), (4, 16)):
        world.join(number)
        world.labels(number, tokens)

    assert world.tell(EndpointLeft(1)) == [PrefixBlockSized(POOL, 16, 16)]


def test_servers_that_all_began_anew_with_another_size_are_other_servers() -> None:
    world = Scraped()
    for number in (1, 2):
        world.join(number)
    for number in (1, 2):
        world.labels(number, 16)

    assert world.labels(1, 32) == []
    assert world.labels(2, 32) == [PrefixBlockSized(POOL, 32, 16)]


def test_servers_whose_processes_all_began_anew_are_other_servers() -> None:
    world = Scraped()
    for number in (1, 2):
        world.join(number)
        world.tell(ServerStarted(number, 100.0))
    for number in (1, 2):
        world.labels(number, 16)

    for number in (1, 2):
        assert world.tell(ServerStarted(number, 200.0)) == []
    assert world.labels(2, 32) == [PrefixBlockSized(POOL, 32, 16)]


def test_it_is_said_once_however_late_the_log_takes_it() -> None:
    world = Scraped()
    world.join(1)
    sizes = BlockSizes()
    world.state.apply_event(world.state.position + 1, LabelsChanged(1, cache_block_tokens=16))
    said = sizes.due(world.state)
    world.state.apply_event(world.state.position + 1, LabelsChanged(1, cache_block_tokens=16, cache_blocks=9))

    assert said == [PrefixBlockSized(POOL, 16, 0)]
    assert sizes.due(world.state) == []
    world.state.apply_event(world.state.position + 1, said[0])
    world.state.apply_event(world.state.position + 1, LabelsChanged(1, cache_block_tokens=32))
    assert sizes.due(world.state) == [PrefixBlockSized(POOL, 32, 16)]


def test_a_pool_that_is_deleted_forgets_its_size() -> None:
    world = Scraped()
    world.join(1)
    world.labels(1, 32)

    world.tell(PoolDeleted(POOL))

    assert world.state.prefix_blocks.all() == []


STEPS = st.lists(
    st.tuples(st.sampled_from(("join", "leave", "tell")), st.integers(1, 5), st.sampled_from((0, 16, 32, 64))),
    max_size=40,
)


@given(STEPS)
def test_the_size_stays_while_a_server_of_its_time_is_there_as_it_was(steps: list[tuple[str, int, int]]) -> None:
    world = Scraped()
    number = 0
    members: dict[int, int] = {}
    """Tokens that each member told last."""
    witnesses: set[int] = set()
    for kind, which, tokens in steps:
        chosen = sorted(members)[which % len(members)] if members else 0
        if kind == "join" or not chosen:
            number += 1
            members[number] = 0
            said = world.join(number)
        elif kind == "leave":
            del members[chosen]
            witnesses.discard(chosen)
            said = world.tell(EndpointLeft(chosen))
        else:
            if members[chosen] not in (0, tokens):
                witnesses.discard(chosen)
            members[chosen] = tokens
            said = world.labels(chosen, tokens)
        if said:
            assert not witnesses
            assert said[0].tokens in members.values()
            witnesses = set(members)
        assert witnesses or not any(members.values())
        assert len(said) <= 1
        again = decode_snapshot(encode_snapshot(world.state))
        assert again.prefix_blocks.all() == world.state.prefix_blocks.all()
