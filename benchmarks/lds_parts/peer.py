"""What bergson 2.5.1 scores for the rows of the fidelity benchmark; run by its own interpreter.

    PEER_PYTHON benchmarks/lds_parts/peer.py FOLDER       # called by `lds.py --peer PEER_PYTHON`

FOLDER holds `job.json` (model, Adam's state) and the rows as tokens with their labels, so both
sides read the same tokens under the same mask. Its own pipelines are called as its command line
calls them; scores go to `scores.npz`, processor seconds without imports to `seconds.json`.
"""

import json
import resource
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bergson.build import build, build_query
from bergson.cli.trackstar import trackstar
from bergson.config.config import (
    DataConfig,
    DistributedConfig,
    HessianConfig,
    HessianPipelineConfig,
    IndexConfig,
    InversionConfig,
    PreprocessConfig,
    QuerySetConfig,
    ScoreConfig,
    TrackstarConfig,
)
from bergson.data import load_scores
from bergson.hessians.pipeline import hessian_pipeline
from bergson.score.score import score_dataset

DAMPINGS = (1e-3, 1e-2, 0.1, 1.0)


def clock():
    """Processor seconds of this process and of those it started."""
    both = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(r.ru_utime + r.ru_stime for r in both)


def index(home, path, job, **settings):
    return IndexConfig(
        run_path=str(home / path),
        model=job["model"],
        precision="fp32",
        data=DataConfig(dataset=str(home / "pool.jsonl")),
        distributed=DistributedConfig(nproc_per_node=1),
        overwrite=True,
        **settings,
    )


def queries(home):
    return QuerySetConfig(dataset=str(home / "target.jsonl"), aggregation="none")


def inner(home, job, name, *, unit, **settings):
    """Inner products (or cosines) of projected gradients."""
    preprocess = PreprocessConfig(unit_normalize=unit)
    build_query(index(home, f"{name}/query", job, **settings), queries(home), PreprocessConfig())
    score_dataset(
        index(home, f"{name}/scores", job, **settings),
        ScoreConfig(query_path=str(home / name / "query")),
        preprocess,
    )


def track(home, job, name, *, unit, damping, mix, **settings):
    """TrackStar, its five steps."""
    config = TrackstarConfig(
        query=queries(home),
        preprocess_cfg=PreprocessConfig(
            unit_normalize=unit, inversion_cfg=InversionConfig(damping_factor=damping)
        ),
        mix_hessians=mix,
    )
    trackstar(index(home, name, job, projection_dim=16, **settings), config)


def ekfac(home, job, name, *, damping, fitted=None, **settings):
    """EK-FAC; `fitted` is a finished run whose query and curvature serve again."""
    if fitted is not None:
        (home / name).mkdir(parents=True)
        for part in ("query", "hessian"):
            (home / name / part).symlink_to(home / fitted / part)
    hessian_pipeline(
        index(home, name, job, **settings),
        HessianConfig(method="kfac", ev_correction=True),
        ScoreConfig(),
        PreprocessConfig(),
        HessianPipelineConfig(
            query=queries(home),
            inversion_cfg=InversionConfig(damping_factor=damping),
            resume=fitted is not None,
        ),
    )


def jobs(home, job):
    """Name to work, in order: defaults, then every setting that might do better."""
    adam = {"optimizer_state": job["optimizer"]}
    work = {}
    for loss in ("sum", "mean"):
        for unit in (False, True):
            kind = "cosine" if unit else "inner"
            base = {"unit": unit, "loss_reduction": loss}
            work[f"{kind}/{loss}"] = partial(inner, home, job, projection_dim=16, **base)
            for state, extra in (("plain", {}), ("adam", adam)):
                for mix in (True, False):
                    for d in DAMPINGS if not mix and loss == "sum" else (0.1,):
                        name = f"trackstar/{kind}-{state}{'-mix' if mix else ''}/{loss}/{d:g}"
                        settings = {"damping": d, "mix": mix, **base, **extra}
                        work[name] = partial(track, home, job, **settings)
        for d in (0.1, *(d for d in DAMPINGS if d != 0.1)):
            fitted = None if d == 0.1 else f"ekfac/{loss}/0.1"
            settings = {"damping": d, "fitted": fitted, "loss_reduction": loss}
            work[f"ekfac/{loss}/{d:g}"] = partial(ekfac, home, job, **settings)
    return work


def main():
    home = Path(sys.argv[1]).resolve()
    job = json.loads((home / "job.json").read_text())
    torch.set_num_threads(job.get("threads", 1))
    only = sys.argv[2:]
    if only == ["build"]:  # for benchmarks/gradients.py: rows a second, start-up subtracted
        print(json.dumps(timed_builds(home, job)))
        return
    inner(home, job, "warm", projection_dim=16, unit=False)  # lazy imports are start-up
    scores, seconds = {}, {}
    for name, work in jobs(home, job).items():
        if only and not name.startswith(tuple(only)):
            continue
        shutil.rmtree(home / name, ignore_errors=True)
        begun = clock()
        work(name)
        seconds[name] = clock() - begun
        scores[name] = np.asarray(load_scores(home / name / "scores")[:])
        np.savez(home / "scores.npz", **scores)
        (home / "seconds.json").write_text(json.dumps(seconds))
        if not name.startswith("ekfac/") or not name.endswith("/0.1"):
            shutil.rmtree(home / name, ignore_errors=True)


def timed_builds(home, job):
    """Seconds of `build` on one row and on all; the difference is free of start-up."""
    spent = []
    for data in ("one.jsonl", "one.jsonl", "pool.jsonl"):
        config = index(home, "built", job, projection_dim=16)
        config.data = DataConfig(dataset=str(home / data))
        shutil.rmtree(home / "built", ignore_errors=True)
        begun = clock()
        build(config, PreprocessConfig())
        spent.append(clock() - begun)
    return spent[1:]


if __name__ == "__main__":
    main()
