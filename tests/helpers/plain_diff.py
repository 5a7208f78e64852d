"""What changed between two ledgers, by plain loops over their rows."""

from collections import Counter


def plain_diff(old: list[dict], new: list[dict]) -> dict:
    """Changes by reason, kept rows, tokens, mixture, its shift, and sources that came and went."""
    changes = Counter()
    for ident in {r["id"] for r in (*old, *new)}:
        a, b = fate(old, ident), fate(new, ident)
        was, now = (r is not None and r["verdict"] == "kept" for r in (a, b))
        if now and not was:
            changes["added", f"was dropped: {a['reason']}" if a else "new in the pool"] += 1
        elif was and not now:
            changes["dropped", b["reason"] if b else "no longer in the pool"] += 1
        elif was and now and a["score"] != b["score"]:
            both = a["score"] is not None and b["score"] is not None
            risen = both and b["score"] > a["score"]
            why = ("higher" if risen else "lower") if both else "scored in one version only"
            changes["re-scored", why] += 1
    kept = [[r for r in rows if r["verdict"] == "kept"] for rows in (old, new)]
    shares = [{s: n / len(k) for s, n in Counter(r["source"] for r in k).items()} for k in kept]
    sources = [{r["source"] for r in rows} for rows in (old, new)]
    moved = (abs(shares[1].get(s, 0) - shares[0].get(s, 0)) for s in sources[0] | sources[1])
    return {
        "changes": dict(changes),
        "rows": [len(k) for k in kept],
        "tokens": [sum(r["tokens"] or 0 for r in k) for k in kept],
        "mixture": [Counter(r["source"] for r in k) for k in kept],
        "shift": sum(moved) / 2,
        "new": sources[1] - sources[0],
        "gone": sources[0] - sources[1],
    }


def fate(rows: list[dict], ident: str) -> dict | None:
    """What became of an id: of its kept copy, else of one that is no copy, else of any."""
    mine = [r for r in rows if r["id"] == ident]
    kept = [r for r in mine if r["verdict"] == "kept"]
    own = [r for r in mine if r["reason"] != "exact_duplicate"]
    return next(iter(kept or own or mine), None)


def gap(a: list[float], b: list[float]) -> float:
    """The largest difference of two distribution functions, point by point."""
    at_all = (*a, *b)
    return max(abs(sum(x <= at for x in a) / len(a) - sum(x <= at for x in b) / len(b))
               for at in at_all)  # fmt: skip
