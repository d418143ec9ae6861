"""LangChain's standard integration tests of a chat model, run against a server with langchain-openai.

Needs UNDINE_BASE_URL (such as http://127.0.0.1:8000/v1) and UNDINE_API_KEY in the environment.
"""

import os
import urllib.request
import json

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
            "temperature": 0,
            "max_tokens": 300,
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
