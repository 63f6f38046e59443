"""How quick the operators of ``stgraph.ops`` are, beside others that do the same, each checked before it is timed."""
