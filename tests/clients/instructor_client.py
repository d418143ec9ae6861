"""What people do through instructor: objects by tools, by JSON schema, in parts, and what happens when an answer is cut.

Usage: instructor_client.py BASE_URL API_KEY
"""

import sys
from typing import Literal, Optional, Union

import instructor
import openai
import pydantic
from instructor.core import IncompleteOutputException

BASE_URL, API_KEY = sys.argv[1:]
LONG = 400  # tokens: enough for every value of Trip


class Trip(pydantic.BaseModel):
    city: Literal["Paris", "Oslo"]
    days: int = pydantic.Field(ge=1, le=7)
    back: Optional[bool] = None
    seat: tuple[Literal["A", "B"], Literal[1, 2]]


class Stay(pydantic.BaseModel):
    kind: Literal["stay"]
    nights: Literal[1, 2, 3]


def client(mode):
    return instructor.from_openai(openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0), mode=mode)


def ask(mode, response_model, **more):
    more = {"max_tokens": LONG, "max_retries": 0, **more}
    return client(mode).create(
        model="undine-demo", response_model=response_model, temperature=0,
        messages=[{"role": "user", "content": "A trip to Oslo for three days."}], **more,
    )


def objects_come_in_every_mode():
    for mode in [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA]:
        trip = ask(mode, Trip)
        assert trip.city in ("Paris", "Oslo") and 1 <= trip.days <= 7 and len(trip.seat) == 2, (mode, trip)


def alternatives_are_told_apart():
    answer = ask(instructor.Mode.TOOLS, Union[Stay, Trip])
    assert isinstance(answer, (Stay, Trip)), answer


def objects_come_in_parts():
    parts = list(ask(instructor.Mode.TOOLS, instructor.Partial[Stay], stream=True))
    assert parts[-1].kind == "stay" and parts[-1].nights in (1, 2, 3), parts[-1]


def a_cut_answer_is_told():
    try:
        ask(instructor.Mode.TOOLS, Trip, max_tokens=6)
    except IncompleteOutputException:
        return
    raise AssertionError("an answer of six tokens was taken for an object")


for check in [objects_come_in_every_mode, alternatives_are_told_apart, objects_come_in_parts, a_cut_answer_is_told]:
    check()
    print(f"ok: {check.__name__}")
