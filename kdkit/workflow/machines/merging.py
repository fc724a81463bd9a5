"""What `python -m kdkit cache merge` does; without torch."""

from pathlib import Path

from kdkit.runs.costs import read_cost, write_cost
from kdkit.runs.paths import make_place_for
from kdkit.runs.store import describe_store
from kdkit.runs.store_build import merge_stores


def merge_answers(out: str, shards: list[str]) -> list[str]:
    """Make a cache of its shards, and note what they cost together; return what to say at the end.

    Raises:
        UserError: see `make_place_for` and `merge_stores`.
    """
    path, files = Path(out), [Path(shard) for shard in shards]
    make_place_for(path, "cache merge")
    merge_stores(path, files)
    costs = [cost for file in files if (cost := read_cost(file)) is not None]
    if len(costs) == len(files):
        totals = {name: sum(cost[name] for cost in costs) for name in ("seconds", "tokens", "sequences")}
        write_cost(path, **totals)
    facts = describe_store(path)
    return [f"cache: {path}: {facts['num_samples']:,} sequences in {facts['num_chunks']} chunks"]
