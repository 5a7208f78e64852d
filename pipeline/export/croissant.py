"""croissant.json: the dataset as Croissant 1.1 JSON-LD, with PROV-O lineage and RAI fields.

Statements follow `facts.Facts`: no licence is listed that no source declared. The run's start and
end are in run.json, to which the activity points, so that equal inputs give equal bytes.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from gristmill.pipeline.export.card import contamination_statement
from gristmill.pipeline.records import licenses
from gristmill.pipeline.report.facts import Config, Facts

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES = {
    "int64": "sc:Integer",
    "int32": "sc:Integer",
    "double": "sc:Float",
    "bool": "sc:Boolean",
    "string": "sc:Text",
}


def croissant(facts: Facts, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON-LD document.

    Args:
        facts: what is true of the publication.
        files: path -> `sha256`, `bytes` of every Parquet file.
    """
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.title,
        "description": _description(facts),
        "conformsTo": [
            "http://mlcommons.org/croissant/1.1",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "version": f"{facts.version.split('-')[0].removeprefix('v')}.0.0",
        "identifier": facts.version,
        "keywords": [facts.kind, "data-selection", *facts.tags],
    }
    if facts.languages:
        document["inLanguage"] = list(facts.languages)
    if named := _licenses(facts):
        document["license"] = named
    document |= _lineage(facts) | _responsible(facts)
    document["distribution"] = _distribution(facts, files)
    document["recordSet"] = [_record_set(config) for config in facts.configs]
    return document


def _description(facts: Facts) -> str:
    rule = facts.selection.get("rule", "a rule")
    return (
        f"{facts.rows:,} of {facts.candidates:,} candidate rows, chosen by "
        f"{rule if isinstance(rule, str) else 'a rule'}; the record set `ledger` says why each "
        "candidate is in or out."
    )


def _licenses(facts: Facts) -> list[str]:
    """Declared licences of shipped rows: a URL where the SPDX id is certain, else the words."""
    known = [d for d in facts.shipped_licenses if d is not None]
    ids = [(licenses.spdx(d), d) for d in known]
    return sorted({f"https://spdx.org/licenses/{i}.html" if i else d for i, d in ids})


def _lineage(facts: Facts) -> dict[str, Any]:
    sources = [
        {
            "@type": "prov:Entity",
            "@id": f"source/{number}",
            "prov:label": r["source"],
            **({"prov:atRevision": r["revision"]} if r["revision"] else {}),
            **({"license": r["license"]} if r["license"] else {}),
        }
        for number, r in enumerate(facts.sources.iter_rows(named=True))
    ]
    tool = {
        "@type": "prov:SoftwareAgent",
        "@id": "agent/gristmill",
        "prov:label": f"gristmill {facts.gristmill}",
    }
    models = [
        {
            "@type": "prov:SoftwareAgent",
            "@id": f"agent/model/{number}",
            "prov:label": f"{m.get('role', 'model')}: {m.get('id', 'unnamed')}",
            **({"prov:atRevision": m["model_sha"]} if m.get("model_sha") else {}),
        }
        for number, m in enumerate(facts.models)
    ]
    run = {
        "@type": "prov:Activity",
        "@id": f"run/{facts.key}",
        "prov:label": "times, cost and hardware: run.json; inputs and settings: manifest.json",
        "prov:wasAssociatedWith": [tool, *models],
    }
    return {
        "prov:wasDerivedFrom": sources,
        "prov:wasGeneratedBy": run,
        "prov:wasAttributedTo": {"@id": tool["@id"]},
    }


def _responsible(facts: Facts) -> dict[str, Any]:
    scored = [f"{m.get('role', 'model')} {m.get('id', 'unnamed')}" for m in facts.models]
    by = f" by {', '.join(scored)}" if scored else ""
    return {
        "rai:dataCollection": (
            "Taken from the sources under prov:wasDerivedFrom; nothing was collected from people."
        ),
        "rai:dataManipulationProtocol": (
            "Duplicates, filters and selection as in manifest.json; each decision is in the "
            f"record set `ledger`. {contamination_statement(facts).splitlines()[0]}"
        ),
        "rai:dataAnnotationProtocol": f"Scores were computed{by}; no human labels were added.",
        "rai:dataBiases": (
            "The selection prefers what its scorer prefers; mixture and lengths before and after "
            "are in report.html."
        ),
        "rai:dataLimitations": "Scores were not checked by people; see README.md.",
        "rai:dataUseCases": f"Post-training of language models ({facts.kind} records).",
    }


def _distribution(facts: Facts, files: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": PurePosixPath(path).name,
            "contentUrl": path,
            "contentSize": f"{files[path]['bytes']} B",
            "encodingFormat": "application/x-parquet",
            "sha256": files[path]["sha256"],
        }
        for config in facts.configs
        for split in config.splits
        for path in split.paths
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"files-{config.name}",
            "name": f"files-{config.name}",
            "encodingFormat": "application/x-parquet",
            "includes": f"{config.folder}/*.parquet",
        }
        for config in facts.configs
    ]
    return [*objects, *sets]


def _record_set(config: Config) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": config.name,
        "name": config.name,
        "field": [_field(config, column, kind) for column, kind in config.columns.items()],
    }


def _field(config: Config, column: str, kind: str) -> dict[str, Any]:
    """A column; structs, as turns are, get a sub-field a part."""
    ident = f"{config.name}/{column}"
    made: dict[str, Any] = {"@type": "cr:Field", "@id": ident, "name": column}
    if kind.startswith("list"):
        made["isArray"] = True
    source = {"fileSet": {"@id": f"files-{config.name}"}, "extract": {"column": column}}
    element = kind.removesuffix(">").rpartition(": ")[2]
    if "struct" not in kind:
        return {**made, "dataType": _TYPES.get(element, "sc:Text"), "source": source}
    made["subField"] = [
        {
            "@type": "cr:Field",
            "@id": f"{ident}/{part}",
            "name": part,
            "dataType": "sc:Text",
            "source": {**source, "transform": {"jsonPath": part}},
        }
        for part in re.findall(r"(\w+): string", kind)
    ]
    return made
