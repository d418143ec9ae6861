"""What people do with LlamaIndex: chats, streams, tools, structured answers.

Usage: llama_index_client.py BASE_URL API_KEY
"""

import sys
from typing import Literal

import pydantic
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

BASE_URL, API_KEY = sys.argv[1:]
LLM = OpenAILike(
    model="undine-demo", api_base=BASE_URL, api_key=API_KEY, is_chat_model=True, is_function_calling_model=True,
    should_use_structured_outputs=True, context_window=4096, max_tokens=200, temperature=0, max_retries=0,
)
QUESTION = [ChatMessage(role="user", content="What is the weather in Oslo?")]


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Oslo"]
    days: int = pydantic.Field(ge=1, le=7)


def forecast(city: str, days: int = 1) -> str:
    """The forecast of a city."""
    return f"rain in {city}"


def chats_and_streams_agree():
    whole = LLM.chat(QUESTION).message.content
    assert whole and "".join(part.delta or "" for part in LLM.stream_chat(QUESTION)) == whole


def completions_work():
    assert LLM.complete("A lake is", max_tokens=8).text


def tools_are_called():
    tool = FunctionTool.from_defaults(forecast)
    answer = LLM.chat_with_tools([tool], chat_history=QUESTION, tool_required=True)
    calls = LLM.get_tool_calls_from_response(answer)
    assert calls and calls[0].tool_name == "forecast" and "city" in calls[0].tool_kwargs, calls


def objects_follow_their_schema():
    weather = LLM.as_structured_llm(Weather).chat(QUESTION).raw
    assert isinstance(weather, Weather), weather


for check in [chats_and_streams_agree, completions_work, tools_are_called, objects_follow_their_schema]:
    check()
    print(f"ok: {check.__name__}")
