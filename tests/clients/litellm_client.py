"""What people do through litellm: chats, streams, tools, and the errors it tells apart by their words.

Usage: litellm_client.py BASE_URL API_KEY
"""

import os
import sys

# Prices come with the package; it would ask for newer ones.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

litellm.suppress_debug_info = True

BASE_URL, API_KEY = sys.argv[1:]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def ask(content, **more):
    return litellm.completion(
        model="openai/undine-demo", api_base=BASE_URL, api_key=API_KEY, temperature=0, max_retries=0,
        messages=[{"role": "user", "content": content}], **more,
    )


def chats_and_streams_agree():
    whole = ask("What is a lake?", max_tokens=24)
    assert whole.choices[0].message.content and whole.usage.prompt_tokens > 0, whole
    chunks = ask("What is a lake?", max_tokens=24, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == whole.choices[0].message.content, (streamed, whole)


def tools_are_called():
    answer = ask("What is the weather in Oslo?", tools=[WEATHER], tool_choice="required", max_tokens=200)
    calls = answer.choices[0].message.tool_calls
    assert calls and calls[0].function.name == "get_weather", answer


def a_prompt_that_is_too_long_is_told_apart():
    for content, more in [("water " * 6000, {}), ("water " * 400_000, {}), ("hi", {"max_tokens": 100_000})]:
        for stream in [False, True]:
            try:
                list(ask(content, stream=stream, **more))
            except litellm.ContextWindowExceededError as error:
                assert "maximum context length is 4096 tokens" in str(error), error
            else:
                raise AssertionError(f"{len(content)} characters and {more} were answered")


def fields_of_other_servers_pass():
    answer = ask("hi", max_tokens=4, extra_body={"repeat_penalty": 1.1, "typical_p": 0.9, "min_p": 0.1})
    assert answer.choices[0].finish_reason in ("stop", "length"), answer


for check in [chats_and_streams_agree, tools_are_called, a_prompt_that_is_too_long_is_told_apart, fields_of_other_servers_pass]:
    check()
    print(f"ok: {check.__name__}")
