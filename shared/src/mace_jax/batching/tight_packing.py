"""Find the limits under which graphs pack well, and pack them.

The edge cap is the user's. The limit of nodes must be tried: too small and edges stay empty, too
large and nodes do. A smaller edge cap can do as well: when six and a half graphs fit, a few batches
of seven would only make all the batches of six wider. Of many graphs a sample is tried.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batches import Batches
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.packing import Limits, pack
from mace_jax.batching.shape_classes import shape_cost

# Shares of the edge cap that are tried when it is the most, or when it is about what is wanted.
_AT_MOST = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79)
_NEAR = (1.0, 1.025, 0.975, 1.05, 0.95, 1.075, 0.925, 1.1, 0.9)
# Caps that are tried then, in parts of what batches need if all have the same number of edges.
_ABOVE_EVEN = (1.003, 1.01)
# How many more batches there may be then, for shapes that cost less.
_MORE_BATCHES = 1.02
# Node limits that are tried, in parts of the average need; edges dominate the cost of MACE.
_ROOMS = (1.01, 1.02, 1.03, 1.04, 1.06, 1.1, 1.2)
# How many of the last graphs of a batch are chosen.
_CHOSEN = (8, 5, 1)
# Graphs of a sample.
_SAMPLE = 5_000


class _Rules(NamedTuple):
    """How to pack: limits of each kind of batch, and how many graphs are chosen."""

    limits: tuple[Limits, ...]
    n_chosen: int


def pack_graphs(
    sizes: GraphSizes,
    cap: int,
    seed: int,
    *,
    near: bool = False,
    larger: Sequence[int] = (),
    graphs: NDArray[np.int64] | None = None,
) -> Batches:
    """Pack graphs into batches of about ``cap`` edges.

    Args:
        sizes: of all graphs.
        cap: edges of a batch; no less than the largest graph has, if there are no ``larger`` ones.
        seed: of the order in which graphs are placed.
        near: take of the caps around ``cap`` that with the least cost; by default of the caps up to
            it, with which there are fewest batches, that with the smallest padded shape.
        larger: edge caps, ascending, of batches that open with a graph of more than ``cap`` edges.
        graphs: ids of those to pack, all by default.
    """
    graphs = np.arange(len(sizes.n_edge)) if graphs is None else graphs
    order = np.random.default_rng(seed).permutation(graphs)
    kind = np.searchsorted([cap, *larger], sizes.n_edge)
    trials = _Trials(sizes, kind, (cap, *larger), order)
    return trials.pack(_choose(trials, near=near), order)


class _Trials:
    """Packs by several rules."""

    def __init__(
        self,
        sizes: GraphSizes,
        kind: NDArray[np.int64],
        caps: Sequence[int],
        order: NDArray[np.int64],
    ) -> None:
        self.sizes, self.kind, self.caps, self.order = sizes, kind, caps, order
        kinds, n_edge, n_node = kind[order], sizes.n_edge[order], sizes.n_node[order]
        self.most_nodes = [int(n_node[kinds == i].max(initial=1)) for i in range(len(caps))]
        ordinary = kinds == 0 if (kinds == 0).any() else kinds > 0
        self.n_graph = int(ordinary.sum())
        self.edges, self.nodes = int(n_edge[ordinary].sum()), int(n_node[ordinary].sum())
        self.most_edges = int(n_edge[kinds == 0].max(initial=1))

    def rules(self, share: float, room: float, n_chosen: int) -> _Rules:
        """Return rules; the limits of larger batches are to the others as their edges are.

        Args:
            share: of the edge cap.
            room: for nodes, in parts of the average need.
            n_chosen: graphs that are chosen.
        """
        n_edge = max(math.ceil(share * self.caps[0]), self.most_edges)
        batches = max(self.edges / n_edge, 1)
        n_node = max(math.ceil(room * self.nodes / batches), self.most_nodes[0])
        n_graph = max(math.ceil(2 * self.n_graph / batches), 1)
        larger = (
            Limits(cap, max(n_node * cap // n_edge, most), n_graph * cap // n_edge)
            for cap, most in zip(self.caps[1:], self.most_nodes[1:], strict=True)
        )
        return _Rules((Limits(n_edge, n_node, n_graph), *larger), n_chosen)

    def pack(self, rules: _Rules, order: NDArray[np.int64]) -> Batches:
        """Pack the graphs of ``order``."""
        n_edge, n_node = self.sizes.n_edge, self.sizes.n_node
        return pack(n_edge, n_node, rules.limits, order, self.kind, n_chosen=rules.n_chosen)

    def share_of_sample(self, n_batches: int) -> float:
        """Return the share of the edge cap that each of ``n_batches`` would need for a sample."""
        edges = int(self.sizes.n_edge[self.order[:_SAMPLE]].sum())
        return edges / (n_batches * self.caps[0])

    def outcome(self, rules: _Rules) -> tuple[int, int]:
        """Return the batches that a sample needs, and what one of its ordinary batches costs."""
        batches = self.pack(rules, self.order[:_SAMPLE])
        n_edge, n_node = batches.sums(self.sizes.n_edge), batches.sums(self.sizes.n_node)
        ordinary = self.kind[batches.ids[batches.offsets[:-1]]] == 0
        edges, nodes = (sizes[ordinary].max(initial=1) for sizes in (n_edge, n_node))
        return len(batches), int(shape_cost(edges, nodes + 1))


def _choose(trials: _Trials, *, near: bool) -> _Rules:
    """Return the best rules: a share of the edge cap first, then one like it and room for nodes."""
    outcome = cache(trials.outcome)

    def total(rules: _Rules) -> int:
        n_batches, cost = outcome(rules)
        return n_batches * cost

    shares = _NEAR if near else _AT_MOST
    tried = {trials.rules(share, max(_ROOMS), n): share for share in shares for n in _CHOSEN}
    best = min(tried, key=total if near else outcome)
    even = trials.share_of_sample(outcome(best)[0])
    narrow = (even * above for above in _ABOVE_EVEN if near or even * above < 1)
    options = [
        trials.rules(share, room, n)
        for share in (tried[best], *narrow)
        for n in _CHOSEN
        for room in _ROOMS
    ]
    most = math.inf if near else _MORE_BATCHES * outcome(best)[0]
    return min((rules for rules in options if outcome(rules)[0] <= most), key=total)
