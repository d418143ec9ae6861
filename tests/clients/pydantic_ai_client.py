"""What people do with pydantic-ai: text, streams, tools with any result, typed output, and a tool that asks to be called again.

Usage: pydantic_ai_client.py BASE_URL API_KEY
"""

import asyncio
import sys
from typing import Literal

import pydantic
from pydantic_ai import Agent, ModelRetry, NativeOutput
from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

BASE_URL, API_KEY = sys.argv[1:]
MODEL = OpenAIChatModel("undine-demo", provider=OpenAIProvider(base_url=BASE_URL, api_key=API_KEY))
SETTINGS = {"temperature": 0, "max_tokens": 200}


class Weather(pydantic.BaseModel):
    city: Literal["Paris", "Oslo"]
    sky: Literal["clear", "rain"]
    days: int = pydantic.Field(ge=1, le=7)


async def text_and_its_stream_agree():
    agent = Agent(MODEL, model_settings=SETTINGS, system_prompt="Be brief.")
    whole = await agent.run("What is a lake?")
    assert whole.output and whole.usage.output_tokens > 0, whole
    async with agent.run_stream("What is a lake?") as result:
        assert "".join([part async for part in result.stream_text(delta=True)]) == whole.output


async def typed_output_follows_its_schema():
    for output in [Weather, NativeOutput(Weather)]:
        answer = await Agent(MODEL, output_type=output, model_settings=SETTINGS).run("The weather in Oslo?")
        assert isinstance(answer.output, Weather), answer


async def tools_give_any_json_and_are_called_again():
    asked = []
    agent = Agent(MODEL, output_type=Weather, model_settings=SETTINGS, retries=2)

    @agent.tool_plain
    def forecast(city: Literal["Paris", "Oslo"], hours: set[Literal[6, 12]] | None = None) -> dict:
        """The forecast of a city."""
        asked.append(city)
        if len(asked) == 1:
            raise ModelRetry("ask again")
        return {"degrees": 3.5, "rain": [True, None]}

    try:
        answer = await agent.run("The weather in Oslo?", usage_limits=UsageLimits(request_limit=6))
        assert isinstance(answer.output, Weather), answer
    except (UnexpectedModelBehavior, UsageLimitExceeded) as error:
        # A toy may call on and on; what it was told is in the history then.
        assert asked, error


async def main():
    # In one loop, to which connections belong.
    for check in [text_and_its_stream_agree, typed_output_follows_its_schema, tools_give_any_json_and_are_called_again]:
        await check()
        print(f"ok: {check.__name__}")


asyncio.run(main())
