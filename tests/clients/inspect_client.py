"""What people do with inspect-ai: an evaluation with a scorer, tools in the loop, and answers with log-probabilities.

Usage: inspect_client.py BASE_URL API_KEY
"""

import os
import sys
import tempfile

BASE_URL, API_KEY = sys.argv[1:]
os.environ.update(INSPECT_LOG_DIR=tempfile.mkdtemp(), INSPECT_DISPLAY="none")

from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import GenerateConfig, get_model  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402
from inspect_ai.solver import generate, use_tools  # noqa: E402
from inspect_ai.tool import tool  # noqa: E402

MODEL = get_model(
    "openai-api/undine/undine-demo", base_url=BASE_URL, api_key=API_KEY, config=GenerateConfig(temperature=0, max_tokens=200)
)
CALLED = []


@tool
def add():
    async def execute(x: int, y: int):
        """Adds two numbers.

        Args:
            x: The first.
            y: The second.
        """
        CALLED.append((x, y))
        return x + y

    return execute


def run(**more):
    [log] = eval(Task(dataset=[Sample(input="What is 2 + 3?", target="5")], scorer=includes(), **more), model=MODEL, max_retries=0)
    assert log.status == "success", log.error
    assert log.results.total_samples == log.results.completed_samples == 1, log.results
    return log


def answers_are_scored():
    log = run(solver=[generate()])
    assert log.stats.model_usage and log.samples[0].output.completion is not None


def tools_are_in_the_loop():
    log = run(solver=[use_tools(add(), tool_choice="any"), generate(tool_calls="single")])
    assert CALLED and any(message.role == "tool" for message in log.samples[0].messages), log.samples[0].messages


def logprobs_come_with_answers():
    log = run(solver=[generate(logprobs=True, top_logprobs=2)])
    assert log.samples[0].output.choices[0].logprobs.content, log.samples[0].output


for check in [answers_are_scored, tools_are_in_the_loop, logprobs_come_with_answers]:
    check()
    print(f"ok: {check.__name__}")
