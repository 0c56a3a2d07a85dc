"""Changed input for everything that reads what others wrote, for a while; `make attack` does it for as long as one likes."""

import os
import random

import pytest
from worlds.attack import attack, one, scaled

SEED = int(os.environ.get("POINTSMAN_SEED", "1"))


def test_nothing_that_reads_what_others_wrote_is_broken_by_it() -> None:
    report = attack(20, SEED)

    assert report.rounds.total() > 1000
    assert report.failures == []


def test_the_attack_finds_what_grows_faster_than_its_input_and_what_is_not_announced() -> None:
    def quadratic(data: bytes) -> None:
        for _ in data:
            data.count(b"\n")

    def broken(data: bytes) -> None:
        data.decode()

    with pytest.raises(AssertionError, match="bytes take"):
        scaled(quadratic, b"a" * 100, random.Random(1))
    with pytest.raises(UnicodeDecodeError):  # noqa: PT012  some of these
        for seed in range(100):
            one(broken, [b"a" * 100], random.Random(seed))
