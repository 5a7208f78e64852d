"""A loopback endpoint that speaks the OpenAI protocol and breaks it on request.

Raw asyncio, so that a test can reset a connection in the middle of a body. The answer to a chat
is a function of its request; `script` names the fault of each attempt at a prompt:

    with FakeOpenAI(script={"hello": ["429", "500"]}) as fake:   # then a good answer
        ...
        assert fake.calls["hello"] == 3
"""

import asyncio
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

ODD = {  # replies that are JSON, and not of the protocol
    "list-text": {"choice": {"message": {"content": [{"type": "text", "text": "a"}]}}},
    "number-finish": {"choice": {"finish_reason": 7}},
    "endless-count": {"reply": {"usage": {"prompt_tokens": float("inf")}}},
}
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def usage_of(body):
    """Prompt and answer tokens: words, so that a test can know them."""
    words = sum(len(str(message["content"]).split()) for message in body["messages"])
    return words


@dataclass
class FakeOpenAI:
    """Server in a thread. `answer(body) -> str` makes the text; faults go by the last message."""

    answer: object = None
    script: dict = field(default_factory=dict)  # last message -> faults, one an attempt
    always: str | None = None  # a fault for every attempt
    delay: float = 0.0
    retry_after: str | None = None
    calls: Counter = field(default_factory=Counter)  # last message -> chats received
    bodies: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    times: list = field(default_factory=list)
    statuses: list = field(default_factory=list)  # of the chats, in order
    in_flight: int = 0
    most_in_flight: int = 0
    limit: int | None = None  # more than this at once are told 429
    files: dict = field(default_factory=dict)
    batches: dict = field(default_factory=dict)
    batch_polls: int = 1  # looks at a batch before it is done

    def __enter__(self):
        started = threading.Event()
        self.loop = asyncio.new_event_loop()

        async def serve():
            self.server = await asyncio.start_server(self.connection, "127.0.0.1", 0)
            self.port = self.server.sockets[0].getsockname()[1]

        def main():
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(serve())
            self.loop.call_soon(started.set)  # once it runs for ever, and can be stopped
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(asyncio.sleep(0.01))  # transports close behind their task
            self.loop.close()

        self.thread = threading.Thread(target=main, daemon=True)
        self.thread.start()
        started.wait(10)
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_):
        def stop():
            self.server.close()
            self.loop.stop()

        self.loop.call_soon_threadsafe(stop)
        self.thread.join(10)

    async def connection(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                method, path, _ = first.split(" ")
                headers = {k.lower(): v for k, v in (x.split(": ", 1) for x in lines if x)}
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                if path == "/v1/chat/completions":
                    await self.chat(json.loads(data), headers, writer)
                else:
                    send(writer, 200, self.rest(method, path, data, headers))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def chat(self, body, headers, writer):
        prompt = body["messages"][-1]["content"]
        self.calls[prompt] += 1
        self.bodies.append(body)
        self.headers.append(headers)
        self.times.append(time.monotonic())
        faults = self.script.get(prompt, [])
        attempt = self.calls[prompt]
        fault = faults[attempt - 1] if attempt <= len(faults) else self.always
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.limit is not None and self.in_flight > self.limit:
                fault = "429"
            if self.delay or fault == "slow":
                await asyncio.sleep(5.0 if fault == "slow" else self.delay)
            if fault == "echo-key":
                error = {"message": "bad key " + headers["authorization"].split()[-1]}
                send(writer, 400, {"error": error})
            else:
                self.respond(fault, body, writer)
        finally:
            self.in_flight -= 1

    def respond(self, fault, body, writer):
        self.statuses.append(fault or "200")
        error = {"error": {"message": f"fault {fault}", "type": "fault", "code": None}}
        reply = self.completion(body)
        if fault is None:
            send(writer, 200, reply)
        elif fault == "reset":
            writer.transport.abort()
            raise ConnectionResetError
        elif fault == "truncated":  # the length is right, the JSON is not
            send(writer, 200, json.dumps(reply).encode()[:-20])
        elif fault == "short":  # the connection ends before the announced length
            send(writer, 200, json.dumps(reply).encode()[:-20], more=20)
            writer.close()
            raise ConnectionResetError
        elif fault == "br":  # packed in a way that was not asked for
            send(writer, 200, reply, extra="content-encoding: br\r\n")
        elif fault in ODD:
            choice = {**reply["choices"][0], **ODD[fault].get("choice", {})}
            send(writer, 200, {**reply, "choices": [choice], **ODD[fault].get("reply", {})})
        elif fault == "deep":
            send(writer, 200, b"[" * 100_000)
        elif fault == "html":
            send(writer, 200, HTML, kind="text/html")
        elif fault == "empty":
            send(writer, 200, {**reply, "choices": []})
        elif fault == "blank":
            send(writer, 200, self.completion(body, text=""))
        elif fault == "cut":
            send(writer, 200, self.completion(body, finish="length"))
        elif fault == "other-model":
            send(writer, 200, {**reply, "model": "someone-else"})
        elif fault == "context":
            error["error"] |= {"code": "context_length_exceeded", "message": "4097 tokens asked"}
            send(writer, 400, error)
        elif fault == "quota":
            error["error"] |= {"code": "insufficient_quota", "message": "pay first"}
            send(writer, 429, error)
        elif fault == "429" and self.retry_after is not None:
            send(writer, 429, error, extra=f"retry-after: {self.retry_after}\r\n")
        else:
            send(writer, int(fault), error)

    def completion(self, body, text=None, finish="stop"):
        if text is None:
            text = self.answer(body) if self.answer else "answer to " + str(usage_of(body))
        message = {"role": "assistant", "content": text}
        return {
            "id": "chat-1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": usage_of(body), "completion_tokens": len(text.split())},
        }

    def rest(self, method, path, data, headers):
        """Files and batches."""
        if path == "/v1/files":
            boundary = headers["content-type"].split("boundary=")[1].encode()
            parts = data.split(b"--" + boundary)
            content = next(p for p in parts if b'name="file"' in p).split(b"\r\n\r\n", 1)[1]
            name = f"file-{len(self.files)}"
            self.files[name] = content.strip()
            return {"id": name}
        if path.endswith("/content"):
            return self.files[path.split("/")[-2]]
        if path == "/v1/batches" and method == "POST":
            name = f"batch-{len(self.batches)}"
            self.batches[name] = {**json.loads(data), "id": name, "status": "in_progress"}
            self.batches[name]["polls"] = 0
            return self.batches[name]
        if path.startswith("/v1/batches?"):
            return {"data": list(self.batches.values()), "has_more": False}
        batch = self.batches[path.rsplit("/", 1)[1]]
        batch["polls"] += 1
        if batch["status"] == "in_progress" and batch["polls"] >= self.batch_polls:
            self.finish_batch(batch)
        return batch

    def finish_batch(self, batch):
        good, bad = [], []
        for line in reversed(self.files[batch["input_file_id"]].splitlines()):
            row = json.loads(line)
            prompt = row["body"]["messages"][-1]["content"]
            self.calls[prompt] += 1
            if prompt in self.script:
                error = {"error": {"message": "fault", "code": "context_length_exceeded"}}
                answer = {"status_code": 400, "body": error}
                bad.append({"custom_id": row["custom_id"], "response": answer})
            else:
                answer = {"status_code": 200, "body": self.completion(row["body"])}
                good.append({"custom_id": row["custom_id"], "response": answer})
        for kind, rows in (("output_file_id", good), ("error_file_id", bad)):
            name = f"file-{len(self.files)}"
            self.files[name] = "\n".join(
                json.dumps(row, ensure_ascii=False) for row in rows
            ).encode()
            batch[kind] = name if rows else None
        batch["status"] = "completed"


def send(writer, status, body, *, kind="application/json", extra="", more=0):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{extra}"
    writer.write(f"{head}content-length: {len(data) + more}\r\n\r\n".encode() + data)


if __name__ == "__main__":  # a process of its own, for speed measurements
    with FakeOpenAI() as server:
        print(server.url, flush=True)  # noqa: T201
        threading.Event().wait()
