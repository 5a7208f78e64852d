"""The command line: the verbs of `gristmill.pipeline`, one command each, a file a group of them.

Heavy imports stay inside the commands, so that `--help` answers at once.
"""

import os
import sys

import typer

from gristmill.flows import interrupted, terminal
from gristmill.flows.cli import (
    comparing,
    data,
    evaluating,
    lists,
    looking,
    machine,
    reviewing,
    runs,
    scoring,
    serving,
    shown,
    storage,
    training,
)
from gristmill.flows.warned import only_ours

HELP = """Curate and select training data for LLM post-training, and prove that it paid.

\b
Start here:   gristmill demo              a complete run on the data in data/demo
              gristmill doctor            what is missing on this machine, and what mends it
Your data:    gristmill init              writes curate.yaml, with comments; also
                                          --pairs, --prefer, --refine, --synthesis, --clean,
                                          --finetune
              gristmill validate curate.yaml
              gristmill plan curate.yaml  tokens, hours, memory, disk, money
              gristmill run curate.yaml   a try first: --limit 100
One method:   gristmill methods           which there are, and what they need; also
                                          rules and filters
              gristmill methods less      what one reads, costs and may be set to
              gristmill clean --data pool.jsonl --near 0.8 --out drops.parquet
              gristmill score --method rds_plus --data pool.jsonl --reference target.jsonl \\
                  --model org/name --out scores.parquet
              gristmill select --scores scores.parquet --budget 10% --out ledger.parquet
Afterwards:   gristmill explore DIR       look at the rows in a browser, and choose among them
              gristmill why ID            why a row is in, or out, and what it says
              gristmill evaluate MODEL --data test.jsonl --task arc_easy --trained-on DIR \\
                  --out DIR               loss, tasks, preferences, win rate of a model
              gristmill compress EV/* --task arc_easy --items 50 --out FILE
                                          the few items that tell what all of a task would
              gristmill diff A B          what changed between two versions
              gristmill verify DIR        nothing was changed since it was published
              gristmill ls                published datasets and their versions
              gristmill gc                what the store holds, and what of it may go
              gristmill pack DIR --out FILE
                                          a version with its lineage as one archive, for unpack
People:       gristmill review DIR      judge pairs or rows in the browser; a run takes what
                                          was said as `review: FOLDER`
              gristmill approve         runs that wait before publication (`pause: review`)
Training:     gristmill finetune DIR      a published dataset to a model with its card; also
                                          `finetune:` in a run's file, and init --finetune

Servers:      make serve                  Prefect on this machine, with a form a deployment
              gristmill bootstrap         what our runs need, on a server that a team shares

Model references: a folder, file.gguf, pypi:<package>/<file>, org/name (hub), or tiny (for tests).
"""
app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    callback=shown.options,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# In the order in which `--help` lists them.
for command in (
    *(runs.demo, runs.init, runs.validate, runs.plan, runs.run),
    *(lists.methods, lists.rules, lists.filters),
    *(data.ingest, data.clean, data.phrases),
    *(scoring.observe, scoring.score, scoring.check_scores, scoring.select),
    *(evaluating.evaluate, evaluating.compress),
    comparing.compare,
    looking.explore,
    *(data.export, data.why, data.report, data.diff, data.verify, data.push),
    *(reviewing.review, reviewing.approve),
    training.finetune,
    *(storage.ls, storage.gc, storage.pack, storage.unpack),
    *(machine.doctor, machine.schema),
    serving.bootstrap,
):
    app.command()(command)


def main() -> None:
    """Entry point: one sentence for a user's mistake, or a stop; never a traceback."""
    prepare_environment()
    with terminal.shown():
        code, sentence = _run()
        if sentence:
            print(f"gristmill: {sentence}", file=sys.stderr)
    sys.exit(code)


def _run() -> tuple[int, str]:
    """Run the command until it ends or is stopped; its exit code, and what is to be said."""
    code, sentence = 0, ""
    with interrupted.stops() as stops:
        try:
            code, sentence = _answer()
        except BaseException:
            if not stops:
                raise
    if stops:  # whatever became of it on its way through the libraries
        code, sentence = 128 + stops[0], interrupted.sentence(stops[0])
    return code, sentence


def _answer() -> tuple[int, str]:
    """Run the command; its exit code, and the sentence of a failure."""
    try:
        code = app(shown.hoisted(sys.argv[1:]), standalone_mode=False)
    except typer.Abort:
        return 130, ""
    except Exception as error:
        if os.environ.get("GRISTMILL_DEBUG"):
            raise
        if type(error).__module__.startswith(("click", "typer")):
            return 2, f"{vars(error).get('message') or error}"
        from gristmill.flows.connection import ServerGoneError
        from gristmill.flows.problems import Problems
        from gristmill.flows.stopping import EXITS
        from gristmill.pipeline.records.disk import full_disk, sentence, trouble

        if isinstance(error, Problems) and len(error.sentences) > 1:
            listed = "".join(f"\n  {' '.join(s.split())}" for s in error.sentences)
            return 2, f"{error.where} has {len(error.sentences)} problems:{listed}"

        if type(error) in EXITS:
            return EXITS[type(error)], str(error)
        if full_disk(error):
            return 2, sentence(error)
        if isinstance(error, ServerGoneError):
            return 2, str(error)
        if isinstance(error, OSError):
            return 2, trouble(error)
        if isinstance(error, ValueError):
            return 2, " ".join(str(error).split())
        where = "(GRISTMILL_DEBUG=1 shows where)."
        return 1, f"unexpected {type(error).__name__}: {' '.join(str(error).split())} {where}"
    return (code if isinstance(code, int) else 0), ""


def prepare_environment() -> None:
    """Offline unless asked, quiet libraries; before any heavy import."""
    only_ours()
    if "--allow-network" not in sys.argv:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries; progress is told by `console`
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
