"""How a simulated server spends its time: continuous batching in steps, as vLLM does it.

No I/O and no clock: the caller says what time it is, and asks when something will happen next.
A step computes a part of the prompts that were admitted and one token for each sequence whose prompt is done;
it takes longer the more it does.  What the batch, the KV cache or the adapter slots cannot hold waits.
"""

import math
from collections import OrderedDict, deque

import msgspec

from pointsman.cluster.simulator.engine.counts import Figures
from pointsman.cluster.simulator.engine.kv_blocks import KvBlocks
from pointsman.cluster.simulator.engine.sequence import Sequence


class ServerModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What hardware and flags make of a server; the defaults resemble an 8B model on a mid-sized GPU."""

    max_num_seqs: int = 16
    """Sequences in one batch."""
    max_num_batched_tokens: int = 2_048
    """Tokens that one step computes at most."""
    max_model_len: int = 8_192
    block_tokens: int = 16
    num_gpu_blocks: int = 2_048
    prefill_token: float = 0.0002
    """Seconds to compute a prompt's token that is not cached."""
    decode_step: float = 0.010
    """Seconds that any step takes."""
    decode_sequence: float = 0.0005
    """Seconds more for each sequence in the batch."""
    max_loras: int = 4
    """Adapters that one batch can hold."""
    lora_load: float = 0.3
    """Seconds until an adapter that is not on the GPU can be used."""

    def __post_init__(self) -> None:
        counts = (self.max_num_seqs, self.max_num_batched_tokens, self.block_tokens, self.max_loras)
        if min(counts) < 1:
            raise ValueError("max_num_seqs, max_num_batched_tokens, block_tokens and max_loras are at least 1")
        if self.num_gpu_blocks * self.block_tokens < self.max_model_len:
            raise ValueError(
                f"{self.num_gpu_blocks} blocks of {self.block_tokens} tokens hold no sequence of {self.max_model_len}"
            )
        if self.decode_step <= 0 or min(self.prefill_token, self.decode_sequence, self.lora_load) < 0:
            raise ValueError("decode_step is above 0 and the other times are not below it")


class SimulatedEngine:
    """One server's batch, queue, KV cache and adapters."""

    def __init__(self, model: ServerModel) -> None:
        self.model = model
        self.blocks = KvBlocks(model.num_gpu_blocks)
        self.figures = Figures(model.max_model_len)
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}
        """Sequences in the batch, oldest first."""
        self.next_event = math.inf
        """Time at which `advance` has something to do next; infinite while idle."""
        self._resident: OrderedDict[str, float] = OrderedDict()
        """Times at which adapters are or will be loaded, by name, least recently used first."""

    @property
    def kv_usage(self) -> float:
        """The share of the KV cache that running sequences hold."""
        return self.blocks.used / self.blocks.total

    def adapters(self) -> tuple[list[str], list[str]]:
        """The adapters of sequences in the batch, and those of sequences that wait."""
        running = {s.adapter for s in self.running if s.adapter}
        return sorted(running), sorted({s.adapter for s in self.waiting if s.adapter} - running)

    def submit(self, now: float, sequence: Sequence) -> None:
        """Queue a sequence; if nothing runs, a step starts at once."""
        needed = sequence.prompt_tokens + sequence.target
        assert needed <= self.model.max_model_len, f"{needed} tokens, wanted at most {self.model.max_model_len}"
        sequence.arrived = now
        self.waiting.append(sequence)
        if math.isinf(self.next_event) or not self.running:
            self._start_step(now)

    def abort(self, now: float, sequence: Sequence) -> None:
        """Drop a sequence whose client is gone, unless it is done or dropped already."""
        if sequence in self.running:
            del self.running[sequence]
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            return
        self.figures.aborted()
        if not self.running and not self.waiting:
            self.next_event = math.inf

    def advance(self, now: float) -> set[Sequence]:
        """Take all steps that have ended; returns the sequences that got tokens."""
        touched: set[Sequence] = set()
        while self.next_event <= now:
            at = self.next_event
            self._finish_step(at, touched)
            self._start_step(at)
        return touched

    # --- steps ----------------------------------------------------------------------------------

    def _start_step(self, at: float) -> None:
        model = self.model
        self._admit(at)
        if not self.running:
            loading = [ready for ready in self._resident.values() if ready > at]
            self.next_event = min(loading, default=math.inf) if self.waiting else math.inf
            return
        budget = model.max_num_batched_tokens
        computed = 0
        for sequence in self.running:
            sequence.chunk = min(sequence.left, max(0, budget - computed))
            computed += sequence.chunk
        self.figures.step(computed + sum(1 for s in self.running if s.left == 0))
        length = model.decode_step + model.decode_sequence * len(self.running) + model.prefill_token * computed
        self.next_event = at + length

    def _finish_step(self, at: float, touched: set[Sequence]) -> None:
        for sequence in list(self.running):
            if sequence not in self.running:
                continue  # it lost its blocks to another sequence in this step
            if sequence.left > sequence.chunk:
                sequence.left -= sequence.chunk
                continue
            if sequence.left:
                sequence.left = 0
                self._share_prompt(sequence)
            if not self._grow(at, sequence):
                continue
            sequence.produced += 1
            touched.add(sequence)
            self.figures.token()
            if sequence.produced == 1:
                sequence.first_token = at
                self.figures.first_token(at - sequence.arrived)
            if sequence.done:
                del self.running[sequence]
                self._release(sequence)
                self.figures.finished(at, sequence)

    # --- admission ------------------------------------------------------------------------------

    def _admit(self, at: float) -> None:
        """Admit waiting sequences in their order, but let others pass one whose adapter is not loaded yet."""
        passed: list[Sequence] = []
        while self.waiting and len(self.running) < self.model.max_num_seqs:
            sequence = self.waiting.popleft()
            if sequence.adapter and not self._adapter_ready(at, sequence.adapter):
                passed.append(sequence)
                continue
            if not self._allocate(sequence):
                self.waiting.appendleft(sequence)
                break
            if math.isnan(sequence.scheduled):
                sequence.scheduled = at
                self.figures.scheduled(sequence.prompt_tokens, sequence.cached)
            self.running[sequence] = None
        self.waiting.extendleft(reversed(passed))

    def _allocate(self, sequence: Sequence) -> bool:
        size = self.model.block_tokens
        known = sequence.prompt_tokens + sequence.produced
        # The last token of a prompt is always computed, cached or not: the first new token follows from its result.
        usable = sequence.hashes[: (sequence.prompt_tokens - 1) // size]
        shared = sequence.hashes[: self.blocks.match(usable)]
        needed = -(-known // size) - len(shared)
        self.blocks.take_shared(shared)
        if not self.blocks.take(needed):
            self.blocks.release(shared, 0)
            return False
        sequence.shared, sequence.private = list(shared), needed
        sequence.cached = len(shared) * size
        sequence.left = known - sequence.cached
        return True

    def _share_prompt(self, sequence: Sequence) -> None:
        fresh = self.blocks.share(sequence.hashes[len(sequence.shared) :])
        sequence.shared += fresh
        sequence.private -= len(fresh)

    def _grow(self, at: float, sequence: Sequence) -> bool:
        """Make room for one more token, if need be by sending the youngest sequence back to the queue."""
        held = len(sequence.shared) + sequence.private
        if sequence.prompt_tokens + sequence.produced < held * self.model.block_tokens:
            return True
        while not self.blocks.take(1):
            youngest, _ = self.running.popitem()
            self._release(youngest)
            self.waiting.appendleft(youngest)
            self.figures.preempted()
            if youngest is sequence:
                return False
        sequence.private += 1
        return True

    def _release(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.shared, sequence.private)
        sequence.shared, sequence.private = [], 0

    def _adapter_ready(self, at: float, adapter: str) -> bool:
        """Whether the adapter is on the GPU; if there is room for it, loading starts."""
        ready = self._resident.get(adapter)
        if ready is None:
            in_use = {s.adapter for s in self.running}
            if len(self._resident) >= self.model.max_loras:
                idle = next((a for a, r in self._resident.items() if a not in in_use and r <= at), None)
                if idle is None:
                    return False
                del self._resident[idle]
            ready = self._resident[adapter] = at + self.model.lora_load
        self._resident.move_to_end(adapter)
        return ready <= at
