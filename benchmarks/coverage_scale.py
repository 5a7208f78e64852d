"""k-center and facility location among millions of embeddings: time, memory, the objective.

    python benchmarks/coverage_scale.py --rows 1000000 --picks 5000
    python benchmarks/coverage_scale.py --check 5000 --embeddings FILE.npy

The first scores a pool of the embeddings of `duplicates_scale.py` by `kcenter` and
`facility_location_knn`, each in a process of its own. The second sets both beside the plain greedy
of all pairs on a few thousand rows: of the file (unit vectors, N x D), or of the same making.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from duplicates_scale import COLUMN, Shards, embeddings, told
from near_duplicates import clocks, since

METHODS = ("kcenter", "facility_location_knn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--picks", type=int, default=2_000)
    parser.add_argument("--check", type=int, help="rows to set beside the plain greedy")
    parser.add_argument("--embeddings", type=Path, help="real ones, for --check")
    parser.add_argument("--method", choices=METHODS, help="only this one")
    parser.add_argument("--folder", type=Path, help="where all of it lies meanwhile")
    asked = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        rows = asked.check or asked.rows
        if asked.embeddings is None:
            jobs = [(embeddings, (Path(name), rows, asked.dims))]
        else:
            vector_ND = np.load(asked.embeddings)[:rows]
            ids = [f"{i:032x}" for i in range(len(vector_ND))]
            frame = pl.DataFrame({"id": ids, COLUMN: vector_ND})
            frame.write_parquet(Path(name) / "00000.parquet")
            rows, jobs = len(vector_ND), []
        if asked.check:
            jobs.append((check, (Path(name), rows)))
        else:
            methods = [asked.method] if asked.method else METHODS
            jobs += [(score, (Path(name), rows, m, asked.picks)) for m in methods]
        for target, given in jobs:
            process = spawn.Process(target=target, args=given)
            process.start()
            process.join()
            assert process.exitcode == 0


def score(folder: Path, rows: int, method: str, picks: int) -> None:
    """The method over the pool, and what its picks are worth beside random ones."""
    from gristmill.selectors import catalog
    from gristmill.selectors.coverage import embedded

    scorer = catalog.make(method, {"picks": float(picks)})
    pool = Shards(folder=folder, rows=rows, column=scorer.signals[0].column)
    start = clocks()
    scores = scorer.score(pool)
    told(f"{method}, {picks:,} picks", rows, since(start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  peak memory {peak:.2f} GiB", flush=True)
    ids, unit_ND = embedded(pool, pool.column)
    picked = scores.filter(pl.col("score").is_not_null())["id"]
    at = ids.is_in(picked.implode()).arg_true().to_numpy()
    drawn = np.sort(np.random.default_rng(0).choice(rows, picks, replace=False))
    ours, random = worth(unit_ND, at), worth(unit_ND, drawn)
    print(f"  mean cover {ours[0]:.4f} (random {random[0]:.4f}), ", end="")
    print(f"radius {ours[1]:.4f} (random {random[1]:.4f})")


def worth(unit_ND: np.ndarray, picked: np.ndarray) -> tuple[float, float]:
    """The objectives of facility location, a row, and of k-center."""
    mean, nearest = 0.0, []
    for start in range(0, len(unit_ND), 1_024):
        best = (unit_ND[start : start + 1_024] @ unit_ND[picked].T).max(axis=1)
        mean += float(np.maximum(best, 0).sum(dtype=np.float64))
        nearest.append(float(best.min()))
    return mean / len(unit_ND), float(np.sqrt(max(0, 2 - 2 * min(nearest))))


def check(folder: Path, rows: int) -> None:
    """Objectives as shares of the plain greedy's, which compares all pairs at each pick."""
    from gristmill.pipeline.numerics.coverage import cosine, facility_location, k_center
    from gristmill.pipeline.numerics.neighbours import neighbours
    from gristmill.pipeline.numerics.sparse_cover import cover_graph
    from gristmill.selectors.coverage import embedded

    _, unit_ND = embedded(Shards(folder=folder, rows=rows), COLUMN)
    for picks in (rows // 200, rows // 50, rows // 10):
        exact = facility_location(cosine(unit_ND), covered=rows, candidates=rows, picks=picks)
        graph = cover_graph(unit_ND, neighbours(unit_ND, 64), picks)
        ratio = worth(unit_ND, graph.rows)[0] / worth(unit_ND, exact.rows)[0]
        plain = farthest_first(unit_ND, picks)
        ours = k_center(cosine(unit_ND), candidates=rows, picks=picks, start=0).rows
        radius = worth(unit_ND, ours)[1] / worth(unit_ND, np.array(plain))[1]
        print(
            f"{rows:,} rows, {picks} picks: facility_location_knn {ratio:.4f} of the exact cover; "
            f"kcenter {radius:.4f} of the plain loop's radius, "
            f"{sum(a == b for a, b in zip(plain, ours.tolist(), strict=True))} picks the same"
        )


def farthest_first(unit_ND: np.ndarray, picks: int) -> list[int]:
    rows, near_N = [0], unit_ND @ unit_ND[0]
    while len(rows) < picks:
        near_N[rows[-1]] = np.inf
        rows.append(int(near_N.argmin()))
        near_N = np.maximum(near_N, unit_ND @ unit_ND[rows[-1]])
    return rows


if __name__ == "__main__":
    sys.exit(main())
