"""Places of a graph's nodes on a page, in layers from top to bottom (Sugiyama, Tagawa, Toda 1981).

1. A node is as deep as the longest way to it is long; inputs, and what depends on none (constants), go
   right above their first reader.
2. An edge over several layers passes each by a corner of its own, as far as there are not too many corners.
3. Sweeps down and up order every layer by the mean place of the neighbours.
4. Sweeps move each layer as near to its neighbours as the order and the widths allow: a least-squares
   fit under order constraints, which pooling adjacent violators solves exactly in linear time.

Each step takes time in proportion to nodes and corners (sorting aside).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

GAP_X, GAP_Y = 24.0, 46.0
_CORNER_WIDTH = 10.0
_ORDERING_SWEEPS = 6
_PLACING_SWEEPS = 10
_CORNER_WEIGHT = 12.0
# Corners that edges may have together: this many for each node, and some more.
_CORNERS_PER_NODE, _CORNERS = 8, 500


@dataclass(frozen=True, slots=True)
class Placed:
    """A drawn graph.

    Attributes:
        centers: (x, y) of the middle of each node, in its order.
        layers: number of the layer of each node.
        corners: for an edge (from, to), the points that it passes between the two nodes.
        width, height: of all of it; everything lies between 0 and these.
    """

    centers: tuple[tuple[float, float], ...]
    layers: tuple[int, ...]
    corners: Mapping[tuple[int, int], tuple[tuple[float, float], ...]]
    width: float
    height: float


def place(
    widths: Sequence[float], edges: Sequence[tuple[int, int]], height: float, inputs: Collection[int] = ()
) -> Placed:
    """Return places for nodes of the given widths and one height.

    Args:
        edges: (from, to), each from an earlier node to a later one.
        inputs: those nodes that everything else depends on, constants aside.

    Raises:
        ValueError: an edge does not lead from an earlier node to a later one.
    """
    unique = list(dict.fromkeys(edges))
    if any(not 0 <= a < b < len(widths) for a, b in unique):
        raise ValueError("every edge must lead from an earlier node to a later one")
    layers = _layers(len(widths), unique, inputs)
    sizes = list(widths)
    levels = list(layers)
    links: list[tuple[int, int]] = []
    chains: dict[tuple[int, int], list[int]] = {}
    left = _CORNERS_PER_NODE * len(sizes) + _CORNERS
    for a, b in sorted(unique, key=lambda edge: layers[edge[1]] - layers[edge[0]]):
        between = range(layers[a] + 1, layers[b])
        if len(between) > left:
            continue  # drawn as one long curve
        left -= len(between)
        chain = list(range(len(sizes), len(sizes) + len(between)))
        sizes += [_CORNER_WIDTH] * len(between)
        levels += between
        chains[a, b] = chain
        links += zip([a, *chain], [*chain, b], strict=True)
    rows = _order(levels, links)
    xs = _place_rows(rows, sizes, links, len(widths))
    return _finished(xs, sizes, levels, len(widths), chains, height)


def _finished(
    xs: list[float],
    sizes: Sequence[float],
    levels: Sequence[int],
    count: int,
    chains: Mapping[tuple[int, int], Sequence[int]],
    height: float,
) -> Placed:
    """Move everything to the right of and below (0, 0), and tell nodes and corners apart."""
    lefts = [x - size / 2 for x, size in zip(xs, sizes, strict=True)]
    start = min(lefts, default=0.0) - GAP_X
    points = [
        (round(x - start, 1), round(GAP_Y + height / 2 + level * (height + GAP_Y), 1))
        for x, level in zip(xs, levels, strict=True)
    ]
    right = max((x - start + size / 2 for x, size in zip(xs, sizes, strict=True)), default=0.0)
    return Placed(
        tuple(points[:count]),
        tuple(levels[:count]),
        {edge: tuple(points[i] for i in chain) for edge, chain in chains.items() if chain},
        right + GAP_X,
        (max(levels, default=-1) + 1) * (height + GAP_Y) + GAP_Y,
    )


def _layers(count: int, edges: Sequence[tuple[int, int]], inputs: Collection[int]) -> list[int]:
    """Return the layer of each node (rule 1)."""
    sources: list[list[int]] = [[] for _ in range(count)]
    targets: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        sources[b].append(a)
        targets[a].append(b)
    layers = [0] * count
    fixed = [node in inputs for node in range(count)]
    for node in range(count):
        layers[node] = max((layers[source] + 1 for source in sources[node]), default=0)
        fixed[node] |= any(fixed[source] for source in sources[node])
    for node in reversed(range(count)):
        if targets[node] and (not fixed[node] or not sources[node]):
            layers[node] = min(layers[target] for target in targets[node]) - 1
    lowest = min(layers, default=0)
    return [layer - lowest for layer in layers]


def _neighbours(count: int, links: Sequence[tuple[int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for a, b in links:
        above[b].append(a)
        below[a].append(b)
    return above, below


def _order(levels: Sequence[int], links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the nodes of each layer from left to right (rule 3)."""
    rows: list[list[int]] = [[] for _ in range(max(levels, default=-1) + 1)]
    for node, level in enumerate(levels):
        rows[level].append(node)
    above, below = _neighbours(len(levels), links)
    rank = [0.0] * len(levels)
    for row in rows:
        _number(row, rank)
    for sweep in range(_ORDERING_SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for row in rows if down else reversed(rows):
            # A node without neighbours on that side keeps its place among the others.
            wanted = {i: _mean([rank[j] for j in near[i]], rank[i]) for i in row}
            row.sort(key=wanted.__getitem__)
            _number(row, rank)
    return rows


def _number(row: Sequence[int], rank: list[float]) -> None:
    """Give the nodes of a row ranks around 0, so that the middles of all rows lie above each other."""
    middle = (len(row) - 1) / 2
    for position, node in enumerate(row):
        rank[node] = position - middle


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _pull(near: Sequence[int], xs: Sequence[float], count: int, default: float) -> float:
    """Return where neighbours draw a node to; corners of long edges, which lie aside, hardly do."""
    weights = [1.0 if i < count else 0.1 for i in near]
    total = sum(weights)
    return sum(weight * xs[i] for weight, i in zip(weights, near, strict=True)) / total if total else default


def _place_rows(
    rows: Sequence[Sequence[int]], sizes: Sequence[float], links: Sequence[tuple[int, int]], count: int
) -> list[float]:
    """Return the middle of every node (rule 4)."""
    above, below = _neighbours(len(sizes), links)
    xs = [0.0] * len(sizes)
    for row in rows:
        _fit(row, [0.0] * len(row), [1.0] * len(row), sizes, xs)
    for sweep in range(_PLACING_SWEEPS):
        down = sweep % 2 == 0
        last = sweep >= _PLACING_SWEEPS - 2
        for row in rows if down else reversed(rows):
            wanted, weights = [], []
            for node in row:
                is_corner = node >= count
                near = above[node] + below[node] if last else (above if down else below)[node]
                # A bent long edge is worse to follow than a node a little off.
                wanted.append(xs[node] if last and is_corner else _pull(near, xs, count, xs[node]))
                goes_on = is_corner and any(i >= count for i in near)
                weights.append(_CORNER_WEIGHT if goes_on else 1.0 if is_corner else 2.0 + len(near))
            _fit(row, wanted, weights, sizes, xs)
    return xs


def _fit(
    row: Sequence[int],
    wanted: Sequence[float],
    weights: Sequence[float],
    sizes: Sequence[float],
    xs: list[float],
) -> None:
    """Put a row's nodes where they want to be, in their order and without overlap, by least squares."""
    offsets: list[float] = []
    offset = 0.0
    for position, node in enumerate(row):
        if position:
            before = row[position - 1]
            offset += (sizes[before] + sizes[node]) / 2 + GAP_X
        offsets.append(offset)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, number of nodes
    for goal, own, weight in zip(wanted, offsets, weights, strict=True):
        mean, total, number = goal - own, weight, 1
        while blocks and blocks[-1][0] > mean:
            other, heavy, several = blocks.pop()
            mean = (mean * total + other * heavy) / (total + heavy)
            total, number = total + heavy, number + several
        blocks.append((mean, total, number))
    place = 0
    for mean, _, number in blocks:
        for node, own in zip(row[place : place + number], offsets[place : place + number], strict=True):
            xs[node] = mean + own
        place += number
