"""What people do with openai-agents: runs, streams of events, tools with strict schemas, typed output.

Usage: openai_agents_client.py BASE_URL API_KEY
"""

import asyncio
import sys
from typing import Literal

import pydantic
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from agents.exceptions import MaxTurnsExceeded
from openai import AsyncOpenAI

BASE_URL, API_KEY = sys.argv[1:]
set_tracing_disabled(True)
CALLED = []


class Weather(pydantic.BaseModel):
    city: Literal["Paris", "Oslo"]
    sky: Literal["clear", "rain"]


@function_tool
def forecast(city: Literal["Paris", "Oslo"], days: int = 1) -> str:
    """The forecast of a city."""
    CALLED.append(city)
    return "rain"


def agent(**more):
    client = AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0)
    model = OpenAIChatCompletionsModel("undine-demo", openai_client=client)
    settings = more.pop("model_settings", ModelSettings(temperature=0, max_tokens=200))
    return Agent(name="a", instructions="Be brief.", model=model, model_settings=settings, **more)


async def text_and_its_stream_agree():
    whole = await Runner.run(agent(), "What is a lake?")
    assert whole.final_output, whole
    streamed = Runner.run_streamed(agent(), "What is a lake?")
    text = ""
    async for event in streamed.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert text == whole.final_output == streamed.final_output, (text, whole.final_output)


async def tools_are_called_with_what_they_take():
    settings = ModelSettings(temperature=0, max_tokens=200, tool_choice="required", parallel_tool_calls=False)
    try:
        answer = await Runner.run(agent(tools=[forecast], model_settings=settings), "The weather in Oslo?", max_turns=4)
        assert answer.final_output is not None
    except MaxTurnsExceeded:
        pass  # a toy may call on and on
    assert CALLED and set(CALLED) <= {"Paris", "Oslo"}, CALLED


async def typed_output_follows_its_schema():
    answer = await Runner.run(agent(output_type=Weather), "The weather in Oslo?")
    assert isinstance(answer.final_output, Weather), answer


for check in [text_and_its_stream_agree, tools_are_called_with_what_they_take, typed_output_follows_its_schema]:
    asyncio.run(check())
    print(f"ok: {check.__name__}")
