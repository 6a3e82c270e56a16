"""Reads PromQL: which series and labels a query names. Needs promql-parser (PyPI)."""

from common import skip
from metrics import TARGET_LABELS, series

try:
    import promql_parser as p
except ImportError:
    skip("promql-parser is not installed")


def walk(node):
    """The node and all nodes below it."""
    yield node
    for name in ("expr", "lhs", "rhs", "param"):
        if isinstance(child := getattr(node, name, None), p.Expr):
            yield from walk(child)
    if isinstance(node, p.MatrixSelector):
        yield from walk(node.vector_selector)
    for child in getattr(node, "args", None) or []:
        yield from walk(child)


def problems(query, recorded=()):
    """What is wrong with a query: syntax, a series that is not promised, a label it does not have. Empty if nothing is."""
    try:
        tree = p.parse(query)
    except ValueError as e:
        return [f"does not parse: {e}"]
    known, wrong, grouped, at_hand = series(), [], set(), set(TARGET_LABELS)
    for node in walk(tree):
        if isinstance(node, p.VectorSelector):
            name = node.name
            if name in recorded:
                at_hand |= recorded[name]
                continue
            if name not in known:
                wrong.append(f"{name} is not promised")
                continue
            at_hand |= known[name]
            for matcher in node.matchers.matchers:
                if matcher.name not in known[name] | TARGET_LABELS:
                    wrong.append(f"{name} has no label {matcher.name}")
        modifier = getattr(node, "modifier", None)
        if isinstance(node, p.AggregateExpr) and modifier:
            grouped |= set(modifier.labels)
    return wrong + [f"no series has label {label}" for label in sorted(grouped - at_hand)]
