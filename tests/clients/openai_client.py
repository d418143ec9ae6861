"""Checks a running server with OpenAI's own Python client, which knows nothing of Undine.

Usage: python openai_client.py BASE_URL [API_KEY [PART]]        (BASE_URL such as http://127.0.0.1:8000/v1)
Needs: pip install openai. A model with a chat template; any weights will do, since only the protocol is checked.
With an API_KEY the server must have been started with it, and access without it is checked too. With a PART only the
checks that have it in their names are made. A server whose model sees must run on this machine, with
--allowed-media-domains 127.0.0.1.
Exits with 1 if a check fails.
"""

import base64
import contextlib
import http.server
import json
import struct
import sys
import threading
import traceback
import urllib.request
import zlib
from typing import Literal

import openai
import pydantic

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count to three."}]
SHORT = 8  # tokens: enough to see several chunks, few enough for the slowest machine
CLOSING = 32  # tokens: enough for the sentence that ends a thought, in the demo model's small vocabulary
LONG = 400  # tokens: enough for every value that the schemas below allow

# Bounded, so that even random weights come to an end.
CITY = {"type": "string", "enum": ["Paris", "Oslo"]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


class Trip(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    city: Literal["Paris", "Oslo"]
    days: int = pydantic.Field(ge=1, le=7)
    rain: bool


class Checks:
    def __init__(self, base_url, api_key):
        self.base_url = base_url
        self.api_key = api_key
        self.client = self.connect(api_key or "none")
        self.model = self.client.models.list().data[0].id

    def connect(self, api_key):
        return openai.OpenAI(base_url=self.base_url, api_key=api_key, max_retries=0, timeout=300)

    def chat(self, **fields):
        fields = {"model": self.model, "messages": MESSAGES, "max_tokens": SHORT, "temperature": 0, **fields}
        return self.client.chat.completions.create(**fields)

    def complete(self, **fields):
        fields = {"model": self.model, "prompt": "Once upon a time", "max_tokens": SHORT, "temperature": 0, **fields}
        return self.client.completions.create(**fields)

    def expect(self, error, call, param=None, status=None):
        """The call must raise `error`, blaming `param`."""
        try:
            call()
        except error as caught:
            assert param is None or caught.param == param, f"blames {caught.param!r}, expected {param!r}: {caught}"
            assert status is None or caught.status_code == status, caught
            assert caught.body["message"], caught
            return
        raise AssertionError(f"expected {error.__name__}, but the call succeeded")

    # ---- the checks: every method whose name starts with check_

    def check_models(self):
        listed = self.client.models.list()
        assert listed.object == "list"
        for model in listed.data:
            card = self.client.models.retrieve(model.id)
            assert card.id == model.id and card.object == "model" and card.created > 0
            assert card.max_model_len > 0  # vLLM's addition

    def check_chat(self):
        answer = self.chat()
        choice = answer.choices[0]
        assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
        assert choice.message.role == "assistant"
        assert choice.finish_reason in ("stop", "length")
        usage = answer.usage
        assert 0 < usage.completion_tokens <= SHORT and usage.prompt_tokens > 0
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
        assert usage.completion_tokens_details.reasoning_tokens <= usage.completion_tokens

    def check_chat_repeats(self):
        first, second = self.chat(), self.chat()
        assert first.choices[0].message == second.choices[0].message
        seeded = [self.chat(temperature=1, seed=7).choices[0].message for _ in range(2)]
        assert seeded[0] == seeded[1]

    def check_chat_stream(self):
        whole = self.chat()
        content, reasoning, finish, usage, roles = "", "", None, None, []
        for chunk in self.chat(stream=True, stream_options={"include_usage": True}):
            assert chunk.object == "chat.completion.chunk"
            if chunk.usage:
                usage = chunk.usage
            for choice in chunk.choices:
                assert finish is None, "nothing may follow the finish reason"
                content += choice.delta.content or ""
                reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                roles += [choice.delta.role] if choice.delta.role else []
                finish = choice.finish_reason
        message = whole.choices[0].message
        assert content == (message.content or ""), (content, message.content)
        assert reasoning == (getattr(message, "reasoning_content", None) or "")
        assert finish == whole.choices[0].finish_reason
        assert usage == whole.usage, (usage, whole.usage)
        assert roles == ["assistant"]

    def check_chat_stream_helper(self):
        with self.client.chat.completions.stream(
            model=self.model, messages=MESSAGES, max_tokens=SHORT, temperature=0
        ) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion() if self.chat().choices[0].finish_reason == "stop" else None
        assert final is None or final.choices[0].message.role == "assistant"

    def check_chat_logprobs(self):
        answer = self.chat(logprobs=True, top_logprobs=3)
        entries = answer.choices[0].logprobs.content
        assert len(entries) == answer.usage.completion_tokens
        for entry in entries:
            assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
            assert entry.top_logprobs[0].logprob == entry.logprob, "at temperature 0 the best token is chosen"
            assert entry.bytes is not None

    def check_chat_choices(self):
        answer = self.chat(n=3, temperature=1, seed=1)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage.completion_tokens <= 3 * SHORT

    def check_chat_parts_and_tools(self):
        parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
        plain = self.chat(messages=parts)
        tools = self.chat(messages=parts, tools=[tool], tool_choice="auto")
        # A template may not know tools; then the prompt is the same.
        assert tools.usage.prompt_tokens >= plain.usage.prompt_tokens > 0

    def check_chat_tool_turns(self):
        call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"what": "x"}'}}
        turns = MESSAGES + [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        ]
        assert self.chat(messages=turns).usage.prompt_tokens > self.chat().usage.prompt_tokens

    def tool_message(self, **fields):
        return self.chat(max_tokens=LONG, **fields).choices[0]

    def is_weather(self, call):
        assert call.id and call.type == "function" and call.function.name == "get_weather", call
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == {"city", "days"}, arguments
        assert arguments["city"] in CITY["enum"] and 1 <= arguments["days"] <= 7, arguments

    def check_tools_required(self):
        for temperature in (0, 1):
            choice = self.tool_message(
                tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, temperature=temperature, seed=5
            )
            assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1, choice
            self.is_weather(choice.message.tool_calls[0])

    def check_tools_named(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        choice = self.tool_message(tools=[CLOCK, WEATHER], tool_choice=named, parallel_tool_calls=False)
        self.is_weather(choice.message.tool_calls[0])
        unknown = {"type": "function", "function": {"name": "no_such_tool"}}
        self.expect(openai.BadRequestError, lambda: self.chat(tools=[CLOCK], tool_choice=unknown))

    def check_tools_none(self):
        message = self.tool_message(tools=[WEATHER], tool_choice="none").message
        assert not message.tool_calls and "<|tool_call" not in (message.content or ""), message

    def check_tools_stream(self):
        fields = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
        whole = self.tool_message(**fields).message.tool_calls[0].function
        name, arguments, finish, ids = "", "", None, set()
        for chunk in self.chat(stream=True, max_tokens=LONG, **fields):
            for choice in chunk.choices:
                assert not choice.delta.content, choice
                finish = choice.finish_reason or finish
                for call in choice.delta.tool_calls or []:
                    assert call.index == 0
                    ids |= {call.id} if call.id else set()
                    if call.function.name:
                        assert not arguments, "the name comes first"
                        name += call.function.name
                    arguments += call.function.arguments or ""
        assert (name, arguments, finish) == (whole.name, whole.arguments, "tool_calls") and len(ids) == 1

    def check_tools_next_turn(self):
        """The call goes back as it came, with its result, and the second turn finds the first one in the cache."""
        first = self.chat(max_tokens=LONG, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
        message = first.choices[0].message
        turns = MESSAGES + [
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"sky": "clear"}'},
        ]
        second = self.chat(messages=turns, tools=[WEATHER], tool_choice="none")
        assert second.usage.prompt_tokens > first.usage.prompt_tokens
        assert second.usage.prompt_tokens_details.cached_tokens > 0, second.usage

    def check_parse(self):
        answer = self.client.chat.completions.parse(
            model=self.model, messages=MESSAGES, max_tokens=LONG, temperature=1, seed=3, response_format=Trip
        )
        assert isinstance(answer.choices[0].message.parsed, Trip)
        tool = openai.pydantic_function_tool(Trip)
        called = self.client.chat.completions.parse(
            model=self.model, messages=MESSAGES, max_tokens=LONG, tools=[tool], tool_choice="required",
            parallel_tool_calls=False,
        )
        assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Trip)

    def check_structured(self):
        schema = {"type": "json_schema", "json_schema": {"name": "trip", "strict": True, "schema": Trip.model_json_schema()}}
        for stream in (False, True):
            answer = self.chat(response_format=schema, max_tokens=LONG, temperature=1, seed=9, stream=stream)
            chunks = [c for chunk in answer for c in chunk.choices] if stream else answer.choices
            text = "".join((c.delta if stream else c.message).content or "" for c in chunks)
            Trip.model_validate_json(text)
        for extra, right in [
            ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
            ({"guided_regex": "[a-c]{3}-[0-9]{2}"}, lambda text: len(text) == 6 and text[3] == "-"),
            ({"guided_json": Trip.model_json_schema()}, Trip.model_validate_json),
            ({"structured_outputs": {"choice": ["left", "right"]}}, lambda text: text in ("left", "right")),
            ({"structured_outputs": {"json": Trip.model_json_schema()}}, Trip.model_validate_json),
        ]:
            text = self.chat(extra_body=extra, max_tokens=LONG, temperature=1, seed=2).choices[0].message.content
            assert right(text), (extra, text)

    def check_structured_refused(self):
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no-such-type"}}}
        self.expect(openai.BadRequestError, lambda: self.chat(response_format=schema))
        self.expect(openai.BadRequestError, lambda: self.chat(extra_body={"guided_regex": "(["}))

    def check_cached(self):
        """The same prompt again is found in the cache, and the answer is the same."""
        long = MESSAGES + [{"role": "user", "content": "one two three four five six seven eight nine ten " * 8}]
        first, second = self.chat(messages=long), self.chat(messages=long)
        assert second.usage.prompt_tokens_details.cached_tokens > second.usage.prompt_tokens // 2, second.usage
        assert first.choices[0].message == second.choices[0].message

    def check_thinking_budget(self):
        answer = self.chat(max_tokens=LONG, extra_body={"thinking_token_budget": 4})
        # The sentence that closes a thought counts; an answer that never thought has none.
        assert answer.usage.completion_tokens_details.reasoning_tokens <= 4 + CLOSING, answer.usage

    def check_extra_body(self):
        answer = self.chat(extra_body={"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.05, "return_token_ids": True})
        assert len(answer.choices[0].token_ids) == answer.usage.completion_tokens
        assert len(answer.prompt_token_ids) == answer.usage.prompt_tokens

    def check_completion(self):
        answer = self.complete()
        assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
        assert answer.choices[0].finish_reason in ("stop", "length")
        ended = self.complete(extra_body={"ignore_eos": True})
        assert ended.usage.completion_tokens == SHORT and ended.choices[0].finish_reason == "length"

    def check_completion_stream(self):
        whole = self.complete()
        chunks = list(self.complete(stream=True, stream_options={"include_usage": True}))
        text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
        assert text == whole.choices[0].text, (text, whole.choices[0].text)
        assert chunks[-1].usage == whole.usage and not chunks[-1].choices

    def check_completion_prompts(self):
        answer = self.complete(prompt=["One", "Two"], n=2)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        ids = self.complete(max_tokens=1, extra_body={"return_token_ids": True}).choices[0].prompt_token_ids
        assert self.complete(prompt=ids).choices[0].text == self.complete().choices[0].text
        assert len(self.complete(prompt=[ids, ids]).choices) == 2

    def check_completion_scores(self):
        """What evaluation harnesses do: score a prompt of token ids."""
        ids = self.complete(max_tokens=1, extra_body={"return_token_ids": True}).choices[0].prompt_token_ids
        scored = self.complete(prompt=ids, echo=True, logprobs=1, max_tokens=0)
        logprobs = scored.choices[0].logprobs
        assert scored.usage.completion_tokens == 0
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == len(ids)
        assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
        again = self.complete(prompt=ids, echo=True, logprobs=1, max_tokens=1).choices[0].logprobs
        assert again.token_logprobs[:-1] == logprobs.token_logprobs
        # The score of a generated token is the same when it is part of the prompt.
        longer = self.complete(max_tokens=2, logprobs=0, extra_body={"return_token_ids": True, "ignore_eos": True}).choices[0]
        rescored = self.complete(prompt=ids + longer.token_ids, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
        for generated, scored in zip(longer.logprobs.token_logprobs, rescored.token_logprobs[-2:]):
            assert abs(generated - scored) < 1e-5, (generated, scored)

    def check_stop(self):
        whole = self.complete(extra_body={"ignore_eos": True}).choices[0].text
        if len(whole) < 2:
            return  # A model that says nothing visible cannot be stopped by text.
        stop = whole[len(whole) // 2]
        cut = self.complete(stop=[stop], extra_body={"ignore_eos": True}).choices[0]
        assert cut.text == whole[: whole.index(stop)] and cut.finish_reason == "stop" and cut.stop_reason == stop

    def sees(self):
        request = urllib.request.Request(self.base_url.removesuffix("/v1") + "/server_info")
        request.add_header("Authorization", f"Bearer {self.api_key}")
        with urllib.request.urlopen(request, timeout=30) as response:
            return "image" in json.load(response)["input_modalities"]

    def look(self, *urls, text="What is this?", detail="auto", **fields):
        """Asks about images."""
        images = [{"type": "image_url", "image_url": {"url": url, "detail": detail}} for url in urls]
        turn = {"role": "user", "content": [*images, {"type": "text", "text": text}]}
        return self.chat(messages=[turn], **fields)

    def check_image_refused(self):
        if not self.sees():
            bad, place = openai.BadRequestError, "messages[0].content[0].image_url"
            self.expect(bad, lambda: self.look(data_uri(png(64, 64))), param=place)

    def check_image_tokens(self):
        if not self.sees():
            return
        small, large = data_uri(png(256, 256)), data_uri(png(1600, 900))
        without = self.look().usage.prompt_tokens
        one, low, high = (
            self.look(url, detail=detail).usage.prompt_tokens - without
            for url, detail in ((small, "auto"), (large, "low"), (large, "high"))
        )
        # 64 image tokens and a marker at each end; one tile; eight tiles and a thumbnail.
        assert (one, low, high) == (66, 254, 2311), (one, low, high)
        assert self.look(small, small).usage.prompt_tokens - without == 2 * one
        fewer = self.look(large, extra_body={"mm_processor_kwargs": {"max_tiles": 2, "use_thumbnail": False}})
        assert fewer.usage.prompt_tokens - without == 2 * 256 + 4, fewer.usage

    def check_image_sources(self):
        if not self.sees():
            return
        image = png(300, 200)
        with serving(image) as url:
            fetched, inline = self.look(url), self.look(data_uri(image))
        assert fetched.choices[0].message == inline.choices[0].message
        assert fetched.usage.prompt_tokens == inline.usage.prompt_tokens

    def check_image_stream(self):
        if not self.sees():
            return
        url = data_uri(png(200, 300))
        whole, streamed = self.look(url), ""
        for chunk in self.look(url, stream=True):
            for choice in chunk.choices:
                streamed += choice.delta.content or ""
        assert streamed == (whole.choices[0].message.content or "")

    def check_image_next_turn(self):
        if not self.sees():
            return
        image = {"type": "image_url", "image_url": {"url": data_uri(png(320, 320))}}
        turns = [{"role": "user", "content": [image, {"type": "text", "text": "What is this?"}]}]
        first = self.chat(messages=turns)
        turns += [first.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "Really?"}]
        second = self.chat(messages=turns)
        assert second.usage.prompt_tokens_details.cached_tokens > 100, second.usage
        other = {"type": "image_url", "image_url": {"url": data_uri(png(320, 320, seed=7))}}
        turns[0]["content"][0] = other
        assert self.chat(messages=turns).usage.prompt_tokens_details.cached_tokens < 20

    def check_image_errors(self):
        if not self.sees():
            return
        bad, place = openai.BadRequestError, "messages[0].content[0].image_url"
        for url in (
            "data:image/png;base64,AAAA",
            data_uri(png(64, 64)[:60]),
            data_uri(png(1, 1)),
            "http://169.254.169.254/latest/meta-data/",
            "http://localhost:1/",
            "file:///etc/passwd",
            "nonsense",
        ):
            self.expect(bad, lambda url=url: self.look(url), param=place)
        with serving(b"<html></html>", "text/html") as url:
            self.expect(bad, lambda: self.look(url), param=place)
        options = {"mm_processor_kwargs": {"num_crops": 4}}
        call = lambda: self.look(data_uri(png(64, 64)), extra_body=options)  # noqa: E731
        self.expect(bad, call, param="mm_processor_kwargs.num_crops")

    def check_error_model(self):
        self.expect(openai.NotFoundError, lambda: self.chat(model="no-such-model"), param="model")
        self.expect(openai.NotFoundError, lambda: self.client.models.retrieve("no-such-model"), param="model")

    def check_error_fields(self):
        bad = openai.BadRequestError
        self.expect(bad, lambda: self.chat(temperature=3), param="temperature")
        self.expect(bad, lambda: self.chat(top_p=0), param="top_p")
        self.expect(bad, lambda: self.chat(messages=[]), param="messages")
        self.expect(bad, lambda: self.chat(messages=[{"role": "robot", "content": "x"}]), param="messages[0].role")
        self.expect(bad, lambda: self.chat(top_logprobs=2), param="top_logprobs")
        self.expect(bad, lambda: self.chat(stream_options={"include_usage": True}), param="stream_options")
        self.expect(bad, lambda: self.complete(max_tokens=-2), param="max_tokens")
        self.expect(bad, lambda: self.complete(suffix="x"), param="suffix")
        self.expect(bad, lambda: self.complete(prompt=[10**9]), param="prompt")
        self.expect(bad, lambda: self.complete(max_tokens=10**9), param="max_tokens")

    def check_unknown_fields(self):
        """A misspelt name does not fail the request, and is named."""
        raw = self.client.chat.completions.with_raw_response.create(
            model=self.model, messages=MESSAGES, max_tokens=1, extra_body={"temprature": 1, "rid": None}
        )
        assert raw.headers["x-undine-ignored-fields"] == "temprature", raw.headers
        assert raw.parse().choices

    def check_error_key(self):
        stranger = self.connect("wrong-key")
        self.expect(openai.AuthenticationError, stranger.models.list, status=401)


def png(width, height, seed=1):
    """A picture of stripes."""
    rows = b"".join(b"\0" + bytes((x * seed + y + c * 80) % 256 for x in range(width) for c in range(3)) for y in range(height))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def data_uri(image):
    return "data:image/png;base64," + base64.b64encode(image).decode()


@contextlib.contextmanager
def serving(body, kind="image/png"):
    """The URL of a server on this machine that has just one thing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/image.png"
        server.shutdown()


def main():
    if len(sys.argv) not in (2, 3, 4):
        print(__doc__)
        return 2
    checks = Checks(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    passed, failed = 0, 0
    part = sys.argv[3] if len(sys.argv) > 3 else ""
    names = [name for name in dir(checks) if name.startswith("check_") and part in name]
    if not checks.api_key and "check_error_key" in names:
        names.remove("check_error_key")
    for name in names:
        try:
            getattr(checks, name)()
            passed += 1
        except Exception:
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc(limit=-3, file=sys.stdout)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
