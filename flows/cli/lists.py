"""Commands that list what there is: methods, rules and filters, and one of them in full."""

from typing import Annotated, Any

import typer

from gristmill.flows.cli.options import JsonOption

NameArgument = Annotated[str | None, typer.Argument(help="one of them, in full")]


def methods(
    name: NameArgument = None,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="the README's table")] = False,
) -> None:
    """List every scoring method (what you have -> which method), or tell all of one."""
    from gristmill.flows import console
    from gristmill.selectors import catalog

    if name is not None:
        console.described(catalog.of(name), as_json=as_json)
    elif markdown:
        print(catalog.markdown(), end="")
    elif as_json:
        console.rows(catalog.describe(), title="", as_json=True)
    else:
        print("start with")
        console.record(catalog.STARTS)
        columns = ("name", "purpose", "reference", "roles", "cost", "paper")
        rows = [{c: _text(r[c]) for c in columns} for r in catalog.describe()]
        console.table(rows, title=f"{len(rows)} methods; `gristmill methods NAME` tells all of one")


def rules(name: NameArgument = None, as_json: JsonOption = False) -> None:
    """List the rules that turn scores into a choice, or tell all of one."""
    from gristmill.pipeline.selection.rules import rules as known

    _listed("rule", name, known(), as_json)


def filters(name: NameArgument = None, as_json: JsonOption = False) -> None:
    """List the filters of cleaning, or tell all of one."""
    from gristmill.pipeline.clean.filters import filters as known

    _listed("filter", name, known(), as_json)


def _listed(kind: str, name: str | None, known: Any, as_json: bool) -> None:  # noqa: ANN401
    from gristmill.flows import console
    from gristmill.pipeline.records.registry import described, documented

    if name is not None:
        console.described(documented(kind, name, known), as_json=as_json)
        return
    found = described(known)
    if not as_json:
        found = [{**r, "settings": _text(list(r["settings"])) or "none"} for r in found]
    title = f"{len(found)} {kind}s; `gristmill {kind}s NAME` tells all of one"
    console.rows(found, title=title, as_json=as_json)


def _text(value: Any) -> str:  # noqa: ANN401
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
