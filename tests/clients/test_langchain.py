"""LangChain's standard integration tests of a chat model, run against a server with langchain-openai.

Needs UNDINE_BASE_URL (such as http://127.0.0.1:8000/v1) and UNDINE_API_KEY in the environment.
"""

import json
import os
import urllib.request

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

BASE_URL = os.environ["UNDINE_BASE_URL"]
API_KEY = os.environ["UNDINE_API_KEY"]


def served_model() -> str:
    request = urllib.request.Request(f"{BASE_URL}/models", headers={"Authorization": f"Bearer {API_KEY}"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["data"][0]["id"]


class TestUndine(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        return {
            "model": served_model(),
            "base_url": BASE_URL,
            "api_key": API_KEY,
            # Weights that understand nothing would never end a string by themselves.
            "temperature": 0,
            "frequency_penalty": 1.0,
            "max_tokens": 1000,
            "max_retries": 0,
            "stream_usage": True,
            "use_responses_api": False,
        }

    @property
    def supports_json_mode(self):
        return True

    @property
    def structured_output_kwargs(self):
        return {"method": "json_schema"}

    # What follows asks for understanding, not for a protocol: the right argument, keys that only the prompt names.
    # These may pass with a real model.

    @pytest.mark.xfail(reason="needs a model that copies a number out of the question")
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_tool_calling(self, model):
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason="needs a model that copies a number out of the question")
    async def test_tool_calling_async(self, model):
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason="json_mode sends no schema: the keys are in the prompt alone")
    def test_json_mode(self, model):
        super().test_json_mode(model)

    @pytest.mark.xfail(reason="needs a model that copies a name out of the question")
    def test_unicode_tool_call_integration(self, model):
        super().test_unicode_tool_call_integration(model)

    @pytest.mark.xfail(reason="replays recorded answers of a hosted service, which there are none of", run=False)
    def test_stream_time(self, model, benchmark, vcr):
        super().test_stream_time(model, benchmark, vcr)
