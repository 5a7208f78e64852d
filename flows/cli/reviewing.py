"""Commands for people who look at rows: a page to judge them on, and a decision on a run."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from gristmill.flows.cli.options import STORE, JsonOption, SplitOption, StoreOption

PortOption = Annotated[
    int | None, typer.Option("--port", help="of this machine alone; default: as it was last time")
]


def review(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="published dataset, file or folder of rows; or a request for approval",
        ),
    ],
    order: Annotated[
        str,
        typer.Option(
            "--order",
            help="random, disagreement, disagreement:a,b, or a score (-NAME: the lowest first)",
        ),
    ] = "random",
    scores: Annotated[
        Path | None,
        typer.Option("--scores", help="table that --order reads; default: the dataset's ledger"),
    ] = None,
    double: Annotated[
        float, typer.Option("--double", help="share of the rows that two annotators judge")
    ] = 0.1,
    guideline: Annotated[
        Path | None, typer.Option("--guideline", help="Markdown file that stands beside each row")
    ] = None,
    split: SplitOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="so many rows, the first of the order")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="of a new review")] = 0,
    store: StoreOption = STORE,
    port: PortOption = None,
) -> None:
    """Judge pairs or single rows in the browser, by keyboard; every click is on the disk at once.

    Several people may judge, each under a name. The same command comes back to the same review. A
    run takes what they said as `review: FOLDER`, which the page shows.
    """
    from gristmill.flows import reviewing
    from gristmill.flows.pages import serving
    from gristmill.pipeline.review import approval

    if approval.is_request(Path(data)):
        found = reviewing.approving(Path(data))
    else:
        asked = reviewing.Asked(
            data=data,
            store=store,
            split=split,
            order=order,
            scores=scores,
            double=double,
            guideline=guideline,
            limit=limit,
            seed=seed,
        )
        found = reviewing.reviewing(asked)
    at = serving.listening(port, found.usual_port)
    guard = found.door(at)
    print(
        f"{found.title}\nopen  {guard.address}\nCtrl-C ends it; what was said is kept.", flush=True
    )
    serving.serve(found.app, at, guard)


def approve(
    request: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="name of a waiting run, or its request; default: list them"
        ),
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="do not publish these rows")] = False,
    reason: Annotated[str, typer.Option("--reason", help="a rejection needs one")] = "",
    by: Annotated[str | None, typer.Option("--by", help="default: your name here")] = None,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Let a run that waits before publication go on, or reject what it would publish.

    The decision and your name stand in the dataset's card and ledger.
    """
    from gristmill.flows import console
    from gristmill.pipeline.records.place import folder_of
    from gristmill.pipeline.review import approval

    if request is None:
        found = [
            {
                "run": one.name,
                "rows": one.request["rows"],
                "asked": one.request["asked_at"],
                "sample": str(one.path / approval.PAGE),
            }
            for one in approval.waiting(folder_of(store))
        ]
        console.rows(found, title=f"{len(found)} runs wait for approval", as_json=as_json)
        return
    asked = approval.named(request, folder_of(store))
    verdict: approval.Verdict = "rejected" if reject else "approved"
    made = asked.decide(verdict, by or getpass.getuser(), reason)
    if as_json:
        console.rows([dict(made)], title="", as_json=True)
    else:
        print(f"{asked.name}: {made['verdict']} by {made['by']}")
