"""How well do influence scores foretell what training on a subset does? Beside bergson, if given.

    python benchmarks/lds.py [--peer PYTHON] [--only NAME ...] [--resume]
    python benchmarks/lds.py --truth [--workers 2]      # the ground truth again

The Linear Datamodelling Score of a held-out row is the Spearman correlation, over 64 random halves
of 200 real rows, between the sum of the half's scores and minus the row's loss after training on
it (mean of two trainings). Reported is the mean over 30 held-out rows, with a 95 % interval from a
bootstrap over halves and rows; differences are paired. All methods read one model: the base
trained on the whole pool. "tuned" damping is chosen for each half of the held-out rows on the
other half. Seconds are of one processor, models loaded. PYTHON belongs to an environment of its
own with bergson 2.5.1 in it.
"""

# N = pool rows, J = target rows, U = subsets, D = features

import argparse
import json
import logging
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from lds_parts import catalogue, methods
from lds_parts.truth import (
    HOME,
    WORK,
    encode,
    full_run,
    key,
    make_truth,
    open_model,
    read_truth,
    records,
)

DRAWS = 1_000


def centred_ranks(x_UJ):
    """Ranks by column (ties share theirs), centred, to norm 1; zero where all are equal."""
    below_UJ, equal_UJ = ((f(x_UJ[None], x_UJ[:, None])).sum(1) for f in (np.less, np.equal))
    rank_UJ = below_UJ + equal_UJ / 2
    rank_UJ -= rank_UJ.mean(0)
    norm_J = np.sqrt((rank_UJ**2).sum(0))
    return rank_UJ / np.where(norm_J > 0, norm_J, 1)


def correlations(sum_UJ, gain_UJ):
    """Spearman by target row."""
    return (centred_ranks(sum_UJ) * centred_ranks(gain_UJ)).sum(0)


def subset_sums(truth, score_NJ):
    return truth.mask.astype(np.float64) @ score_NJ


def tuned(truth, candidates, gain_UJ):
    """Scores by the setting that is best on the other half of the target rows, and the settings."""
    names = list(candidates)
    lds = np.stack([correlations(subset_sums(truth, s), gain_UJ) for s in candidates.values()])
    even_J = np.arange(gain_UJ.shape[1]) % 2 == 0
    on_odd, on_even = lds[:, ~even_J].mean(1).argmax(), lds[:, even_J].mean(1).argmax()
    chosen = np.where(even_J, candidates[names[on_odd]], candidates[names[on_even]])
    return chosen, sorted({names[on_odd], names[on_even]})


def bootstrap(truth, scores, gain_UJ):
    """LDS of every method in every draw of subsets and target rows: methods x draws."""
    sums = {name: subset_sums(truth, s) for name, s in scores.items()}
    draw = np.random.default_rng(0)
    u, j = gain_UJ.shape
    found = np.empty((len(sums), DRAWS))
    for n in range(DRAWS):
        at = np.ix_(draw.integers(0, u, u), draw.integers(0, j, j))
        gain = centred_ranks(gain_UJ[at])
        for m, sum_UJ in enumerate(sums.values()):
            found[m, n] = (centred_ranks(sum_UJ[at]) * gain).sum(0).mean()
    return dict(zip(sums, found, strict=True))


def peer_scores(python, folder, rows, targets):
    """Run bergson in its own environment on the same model, tokens and labels."""
    with tempfile.TemporaryDirectory(prefix="gristmill-lds-") as place:
        home = Path(place)
        for name, part in (("pool", rows), ("target", targets)):
            lines = ({"input_ids": r.ids, "labels": r.labels, "length": len(r.ids)} for r in part)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (home / f"{name}.jsonl").write_text(text)
        job = {"model": str(folder.resolve()), "optimizer": str(folder.resolve() / "optimizer.pt")}
        (home / "job.json").write_text(json.dumps(job))
        script = Path(__file__).parent / "lds_parts" / "peer.py"
        with (home / "log").open("w") as log:
            done = subprocess.run([python, script, home], stdout=log, stderr=log, check=False)
        if done.returncode:
            raise ValueError("bergson ended early:\n" + (home / "log").read_text()[-2_000:])
        with np.load(home / "scores.npz") as file:
            scores = {name: file[name].astype(np.float64) for name in file.files}
        return scores, json.loads((home / "seconds.json").read_text())


def report(truth, groups, seconds):
    """The table, and ours against the peer's best.

    Args:
        truth: masks and outcomes.
        groups: method to its settings to scores (N x J); the first setting is the default.
        seconds: processor seconds of a method, by the name of its setting.
    """
    gain_UJ = -truth.loss.mean(0)
    shown, cost, remark = {}, {}, {}
    for name, settings in groups.items():
        default, *others = settings
        shown[name] = settings[default]
        cost[name] = seconds[default]
        if others:
            shown[f"{name}, tuned"], chosen = tuned(truth, settings, gain_UJ)
            cost[f"{name}, tuned"] = sum(seconds[s] for s in settings)
            remark[f"{name}, tuned"] = " | ".join(s.partition("/")[2] for s in chosen)
    draws = bootstrap(truth, shown, gain_UJ)
    lds = {n: correlations(subset_sums(truth, s), gain_UJ).mean() for n, s in shown.items()}
    ceiling = correlations(-truth.loss[0], -truth.loss[1]).mean()
    print(f"one training of a half against the other order: Spearman {ceiling:.3f}")
    print(
        f"target loss: base {truth.base_J.mean():.3f}, halves {truth.loss.mean():.3f}, "
        f"whole pool {truth.full_J.mean():.3f} nats a token"
    )
    print(f"{'method':44s}{'LDS':>8s}{'95 % interval':>18s}{'cpu s':>8s}  chosen")
    for name in sorted(lds, key=lambda n: -lds[n]):
        low, high = np.quantile(draws[name], [0.025, 0.975])
        print(
            f"{name:44s}{lds[name]:8.3f}{low:9.3f} ..{high:6.3f}{cost[name]:8.1f}"
            f"  {remark.get(name, '')}"
        )
    if len({of_peer(name) for name in lds}) == 2:
        for what, among in (
            ("best default", [n for n in lds if not n.endswith(", tuned")]),
            ("best of all", list(lds)),
        ):
            mine, theirs = (
                max((n for n in among if of_peer(n) == peer), key=lds.get) for peer in (False, True)
            )
            low, high = np.quantile(draws[mine] - draws[theirs], [0.025, 0.975])
            print(
                f"{what}: {mine} minus {theirs}: {lds[mine] - lds[theirs]:+.3f} "
                f"({low:+.3f} .. {high:+.3f}), {cost[mine]:.1f} against {cost[theirs]:.1f} cpu s"
            )


def of_peer(name):
    return name.startswith("bergson")


def kept(path, name, work):
    """Scores and seconds of a method's settings, written as they come, for `--resume`."""
    begun, found, seconds = time.process_time(), {}, {}
    for setting, score_NJ in work():
        label = f"{name}/{setting}" if setting else name
        found[label], seconds[label] = score_NJ, time.process_time() - begun
        begun = time.process_time()
    keep(path, found, seconds)
    return found, seconds


def keep(path, found, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    labels = list(found)
    spent = [seconds[n] for n in labels]
    np.savez_compressed(part, labels=labels, scores=np.stack(list(found.values())), seconds=spent)
    part.replace(path)


def read_kept(path):
    with np.load(path) as file:
        labels = file["labels"].tolist()
        return (
            dict(zip(labels, file["scores"], strict=True)),
            dict(zip(labels, file["seconds"].tolist(), strict=True)),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--peer", help="python of an environment with bergson 2.5.1")
    parser.add_argument("--only", nargs="*", default=[], help="methods whose names begin so")
    parser.add_argument("--truth", action="store_true", help="compute the ground truth again")
    parser.add_argument("--workers", type=int, default=1, help="trainings at once")
    parser.add_argument("--resume", action="store_true", help="reuse scores that a run left")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if options.truth:
        make_truth(options.workers)
    if not options.resume:
        read_truth()  # a missing or stale one is refused before the work, not after it
    torch.set_num_threads(1)
    folder = full_run()
    place = WORK / key() / "scores"
    pool, targets = records()
    chat = open_model(HOME / "base").chat
    rows, held = encode(pool, chat), encode(targets, chat)
    groups, seconds = {}, {}
    with tempfile.TemporaryDirectory(prefix="gristmill-lds-") as home:
        work = methods.methods(folder, rows, held) | catalogue.selectors(folder, home)
        for name, do in work.items():
            if options.only and not name.startswith(tuple(options.only)):
                continue
            path = place / f"{name}.npz"
            there = options.resume and path.exists()
            groups[name], spent = read_kept(path) if there else kept(path, name, do)
            seconds |= spent
            print(f"{name}: {sum(spent.values()):.1f} cpu s", flush=True)
    if options.peer:
        last = sorted(folder.glob("step-*"))[-1]
        path = place / "bergson.npz"
        if not (options.resume and path.exists()):
            keep(path, *peer_scores(options.peer, last, rows, held))
        found, spent = read_kept(path)
        for label, score_NJ in found.items():
            kind = label.partition("/")[0]
            groups.setdefault(f"bergson {kind}", {})[f"bergson {label}"] = score_NJ
        seconds |= {f"bergson {label}": s for label, s in spent.items()}
    report(read_truth(), groups, seconds)


if __name__ == "__main__":
    main()
