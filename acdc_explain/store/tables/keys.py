"""The keys of nodes: integers that sort by circuit, then in the order of the forward pass."""

from __future__ import annotations

from ...records.circuit import INPUT, LOGITS, Node

CIRCUIT_BITS = 32  # a key: the circuit's number, then the node's place in the forward pass
PLACE = (1 << CIRCUIT_BITS) - 1  # the bits of the place
FIRST, LAST = 0, (1 << 31) - 1  # the places of the input and of the logits
WIDTH = 4096  # places a layer: all of it, its heads, its MLP
MLP = WIDTH - 1


def keys_of(number: int) -> tuple[int, int]:
    """The smallest key of a circuit's nodes, and the smallest of the next circuit's."""
    return number << CIRCUIT_BITS, (number + 1) << CIRCUIT_BITS


def node_key(number: int, node: Node) -> int:
    """The key of a node in the circuit of this number; the node's token position has no part.

    No two nodes share a key: `records/circuit.py` limits the layers and heads of a model.
    """
    base = node.base
    if base == INPUT:
        place = FIRST
    elif base == LOGITS:
        place = LAST
    else:
        assert node.layer is not None
        within = {"attn": 0, "head": 1 + (node.head or 0), "mlp": MLP}[node.kind]
        place = (node.layer + 1) * WIDTH + within
    return (number << CIRCUIT_BITS) + place


def node_of(key: int) -> Node:
    """The node of a key."""
    place = key & PLACE
    if place == FIRST:
        return INPUT
    if place == LAST:
        return LOGITS
    layer, within = divmod(place, WIDTH)
    if within == MLP:
        return Node("mlp", layer - 1)
    return Node("attn", layer - 1) if within == 0 else Node("head", layer - 1, within - 1)
