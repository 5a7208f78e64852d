"""A store on S3, against moto's server: killed, at once, damaged; and what is said of a failure."""

import importlib.util
import json
import pickle
import re
import shutil
import signal
import textwrap
from pathlib import Path

import pytest
import warm

from gristmill.flows.steps import open_store
from gristmill.pipeline.records import s3
from gristmill.pipeline.records.place import Address, folder_of
from gristmill.pipeline.records.s3 import S3
from gristmill.pipeline.records.store import Store, sha256, walk

ROOT = Path(__file__).parents[3]
COUNT = 4
BUCKET = "gristmill"
asks = pytest.mark.skipif(not s3.there(), reason=f"boto3 is not installed: {s3.INSTALL}")
SERVER = "pip install 'moto[s3]' flask flask-cors"
serves = pytest.mark.skipif(
    not s3.there() or any(importlib.util.find_spec(m) is None for m in ("moto", "flask_cors")),
    reason=f"boto3 or moto's server is not installed: {s3.INSTALL} && {SERVER}",
)

WORKER = textwrap.dedent("""
    import os, signal, sys
    from dataclasses import replace
    import polars as pl
    from gristmill.flows.steps import open_store
    from gristmill.pipeline.records import mirror, s3, store as s

    address, count, die_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    calls = 0
    def counted(real):              # every durable action, here or there, passes one of these
        def call(*args, **named):
            global calls
            calls += 1
            if calls == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)
        return call
    for module in (s, mirror):
        module.sync = counted(module.sync)
    for name in ("create", "replace", "upload", "download", "remove"):
        setattr(s3.S3, name, counted(getattr(s3.S3, name)))
    def make(i):
        return pl.DataFrame({"i": list(range(i, i + 5))})
    store = open_store(address)
    if store.remote is not None:
        store = replace(store, remote=replace(store.remote, seconds=2.0))
    step = s.Step(name="toy", version=1)
    store.run(step, [s.table(f"p{i}", lambda i=i: make(i)) for i in range(count)])
    print(calls)
""")


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    yield "http://{}:{}".format(*served.get_host_and_port())
    served.stop()


@pytest.fixture
def asked(server, monkeypatch, tmp_path):
    """The environment that asks the server, and one bucket there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDGRISTMILLTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecretkeyofthetest")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path / "caches"))
    client = S3(address=Address(bucket=BUCKET, prefix=""))._client
    client.create_bucket(Bucket=BUCKET)
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for one in page.get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=one["Key"])


def worker(address, die_at=0):
    return warm.Child(WORKER, address, COUNT, die_at)


def ended(child, code=0):
    told = child.communicate(120)
    assert child.returncode == code, told
    return told[0]


def contents(root):
    return {
        p.relative_to(root).as_posix(): sha256(p)
        for p in walk(root / "toy")
        if p.name != ".stamps.json" and ".lock-" not in p.name
    }


def parts_made(root):
    path = root / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["part"] for line in lines]


def names(client, prefix):
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ())
    return [one["Key"].removeprefix(prefix) for one in found]


@serves
@pytest.mark.slow
@pytest.mark.fault("killed: a store on S3; another machine goes on")
def test_killed_at_twenty_moments_another_machine_ends_with_the_same_bytes(
    asked, tmp_path, monkeypatch, record_property
):
    ended(worker(tmp_path / "plain"))
    truth = contents(tmp_path / "plain")
    actions = int(ended(worker(f"s3://{BUCKET}/whole")))
    assert contents(folder_of(f"s3://{BUCKET}/whole")) == truth
    assert actions > 20
    moments = [1 + actions * n // 20 for n in range(20)]
    for die_at in moments:
        address = f"s3://{BUCKET}/die-{die_at}"
        here = folder_of(address)
        ended(worker(address, die_at), -signal.SIGKILL)
        put = [
            n.rpartition("/")[2].removesuffix(".json") for n in names(asked, f"die-{die_at}/parts/")
        ]
        done = bool(names(asked, f"die-{die_at}/entries/"))
        first = parts_made(here)
        shutil.move(here, tmp_path / f"gone-{die_at}")  # that machine does not come back
        ended(worker(address))
        assert contents(here) == truth
        again = parts_made(here)
        assert not set(put) & set(again)  # what was put is not made again
        assert len(first) + len(again) <= COUNT + 1  # one was in flight
        assert not (done and again)
        assert set(first) | set(again) == {f"p{i}.parquet" for i in range(COUNT)}
        assert len(names(asked, f"die-{die_at}/entries/")) == 1
    record_property("fault", ("right", len(moments)))


@serves
@pytest.mark.slow
@pytest.mark.fault("killed: a store on S3; the same machine goes on at once")
def test_a_machine_that_was_killed_goes_on_without_waiting_for_its_own_lease(asked, tmp_path):
    address = f"s3://{BUCKET}/again"
    actions = int(ended(worker(f"s3://{BUCKET}/count")))
    code = WORKER.replace("seconds=2.0", "seconds=600.0")
    first = warm.Child(code, address, COUNT, actions // 2)
    ended(first, -signal.SIGKILL)
    assert names(asked, "again/leases/")
    ended(warm.Child(code, address, COUNT, 0))
    assert len(parts_made(folder_of(address))) <= COUNT + 1
    assert not names(asked, "again/leases/")
    assert not names(asked, "again/parts/")


@serves
@pytest.mark.slow
@pytest.mark.fault("two machines at once on one prefix of S3")
def test_two_machines_at_once_make_each_part_once(asked, tmp_path, monkeypatch):
    address = f"s3://{BUCKET}/both"
    ended(worker(tmp_path / "plain"))
    children, roots = [], []
    for name in "ab":
        monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path / name))
        children.append(worker(address))
        roots.append(folder_of(address))
    for child in children:
        ended(child)
    assert sorted(p for root in roots for p in parts_made(root)) == [
        f"p{i}.parquet" for i in range(COUNT)
    ]
    assert [contents(root) for root in roots] == [contents(tmp_path / "plain")] * 2
    assert names(asked, "both/parts/") == names(asked, "both/leases/") == []


@serves
@pytest.mark.slow
def test_the_calls_of_a_server_are_those_of_the_protocol(asked, tmp_path):
    """What the tests of the mirror take for granted of objects in memory."""
    objects = S3(address=Address(bucket=BUCKET, prefix="a/b"))
    file = tmp_path / "file"
    assert objects.get("x") is None
    assert not objects.download("x", file)
    assert objects.replace("x", b"", '"0"') is None
    tag = objects.create("x", b"one")
    assert objects.create("x", b"two") is None
    found = objects.get("x")
    assert (found.raw, found.tag) == (b"one", tag)
    assert -2 <= found.age < 60
    assert objects.replace("x", b"two", '"0"') is None
    other = objects.replace("x", b"two", tag)
    assert other not in (None, tag)
    assert objects.replace("x", b"three", tag) is None
    for size in (0, 5, 9 << 20):  # the last in pieces
        file.write_bytes(bytes(size))
        objects.upload(f"y/{size}", file)
        assert objects.download(f"y/{size}", tmp_path / "back")
        assert sha256(tmp_path / "back") == sha256(file)
    for i in range(1001):
        asked.put_object(Bucket=BUCKET, Key=f"a/b/z/{i}", Body=b"")
    assert len(objects.sizes("z/")) == 1001  # two pages
    assert objects.sizes("y/") == {"0": 0, "5": 5, str(9 << 20): 9 << 20}
    objects.remove("x")
    objects.remove("x")
    assert objects.get("x") is None


@serves
@pytest.mark.slow
def test_no_credentials_are_in_what_is_put_or_kept(asked, tmp_path):
    address = f"s3://{BUCKET}/secret"
    ended(worker(address))
    texts = [p.read_bytes() for p in walk(folder_of(address))]
    for name in names(asked, ""):
        texts += [name.encode(), asked.get_object(Bucket=BUCKET, Key=name)["Body"].read()]
    assert len(texts) > 10
    assert not [t for t in texts if b"AKIDGRISTMILL" in t or b"verysecret" in t]


@serves
@pytest.mark.slow
def test_rows_read_on_one_machine_are_found_on_another(asked, tmp_path, monkeypatch):
    from gristmill.pipeline.ingest.ingest import Source, ingest

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "q{i}", "response": "a{i}"}}\n' for i in range(20)))
    found = []
    for name in "ab":
        monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path / name))
        store = open_store(f"s3://{BUCKET}/rows")
        dataset = ingest(store, [Source(path=str(rows))], shard_rows=5)
        found.append(dataset.frame())
    assert found[0].equals(found[1])
    assert found[0].height == 20
    assert store.computed() == []


@asks
@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("NoSuchBucket", 404, "there is no such bucket: create it, or name another"),
        ("AccessDenied", 403, r"refuses these credentials \(AccessDenied\): expected the rights"),
        ("InvalidAccessKeyId", 403, "refuses these credentials"),
        ("NotImplemented", 501, "has no conditional puts"),
        ("InvalidRequest", 400, r"refuses \(InvalidRequest\)"),
    ],
)
def test_a_refusal_is_told_at_once(answering, code, status, says):
    objects = answering(*[refused(code, status)])
    with pytest.raises(ValueError, match=rf"^s3://team/a: .*{says}"):
        objects.create("x", b"")


@asks
def test_without_credentials_the_sentence_says_how_to_give_them(answering):
    from botocore.exceptions import NoCredentialsError

    with pytest.raises(ValueError, match="no AWS credentials were found: set AWS_ACCESS_KEY_ID"):
        answering(NoCredentialsError()).get("x")


@asks
def test_a_server_that_does_not_answer_is_asked_again_and_then_told_of(answering, pauses):
    from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

    url = "http://me:secret@127.0.0.1:9"
    gone = EndpointConnectionError(endpoint_url=url)
    passing = [refused("SlowDown", 503), refused("ConditionalRequestConflict", 409), gone]
    passing.append(ReadTimeoutError(endpoint_url=url))
    assert answering(*passing, {"ETag": '"t"'}).create("x", b"") == '"t"'
    assert pauses == list(s3.PAUSES)
    with pytest.raises(
        ConnectionError, match=r"did not answer 5 times .*Endpoint.*goes on"
    ) as said:
        answering(*[gone] * 5).create("x", b"")
    assert "secret" not in str(said.value)


@asks
@pytest.mark.parametrize(("code", "status"), [("PreconditionFailed", 412), ("NoSuchKey", 404)])
def test_a_condition_that_does_not_hold_is_an_answer(answering, pauses, code, status):
    assert answering(refused(code, status)).replace("x", b"", "t") is None
    assert pauses == []


def refused(code, status):
    from botocore.exceptions import ClientError

    told = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "PutObject")


@pytest.fixture
def pauses(monkeypatch):
    found = []
    monkeypatch.setattr(s3.time, "sleep", found.append)
    return found


@pytest.fixture
def answering(monkeypatch, pauses):
    """Objects whose client answers, one call after the other, so."""

    def made(*answers):
        left = iter(answers)

        class Client:
            def put_object(self, **asked):
                answer = next(left)
                if isinstance(answer, Exception):
                    raise answer
                return answer

            get_object = put_object

        monkeypatch.setattr(s3, "_client", lambda *where: Client())
        return S3(address=Address(bucket="team", prefix="a"))

    return made


def test_boto3_is_imported_by_nobody_who_did_not_ask_for_it():
    """Only within functions of one module."""
    found = {}
    for folder in ("pipeline", "flows", "selectors", "synthesis"):
        for path in (ROOT / folder).rglob("*.py"):
            pattern = r"^( *)(?:import|from) (?:boto3|botocore|s3transfer|fsspec|s3fs)\b"
            if lines := re.findall(pattern, path.read_text("utf-8"), re.MULTILINE):
                found[path.name] = lines
    assert set(found) == {"s3.py"}
    assert all(found["s3.py"])


@asks
def test_a_store_travels_to_workers(monkeypatch, tmp_path):
    """As the engines hand it to them: no open connection is in it."""
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path))
    store = open_store("s3://team/a")
    assert pickle.loads(pickle.dumps(store)) == store


def test_without_boto3_the_sentence_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path))
    monkeypatch.setattr(s3, "there", lambda: False)
    with pytest.raises(ValueError, match=r"s3://team/a, and boto3 is not installed: pip install '"):
        open_store("s3://team/a")
    assert not list(tmp_path.iterdir())
    assert isinstance(open_store(tmp_path), Store)
