"""Writes schemas.jsonl: schemas as libraries write them, with objects that are valid and not valid under them.

Usage: make.py FOLDER          (FOLDER is made, or has been made before by this)
Needs Python 3.11 with requirements.txt beside this file, node and npm, and cargo.
The verdicts are those of the jsonschema package; formats count as remarks, as the standard has it.
"""

import asyncio
import datetime
import decimal
import enum
import json
import pathlib
import shutil
import subprocess
import sys
import typing
import uuid
from importlib.metadata import version

import jsonschema
import msgspec
import pydantic
from annotated_types import Ge, Le, Len
from openai import pydantic_function_tool
from openai.lib._pydantic import to_strict_json_schema
from pydantic import AnyUrl, BaseModel, ConfigDict, EmailStr, Field, IPvAnyAddress, RootModel, TypeAdapter
from typing_extensions import Annotated, Literal, Optional, TypedDict, Union

HERE = pathlib.Path(__file__).parent
LINES = []


def put(source, name, schema, valid=(), invalid=()):
    LINES.append({"from": source, "name": name, "schema": schema, "valid": list(valid), "invalid": list(invalid)})


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Size(enum.IntEnum):
    S = 1
    L = 3


class Address(BaseModel):
    """Where somebody lives."""

    street: str = Field(min_length=1, max_length=40, description="Street and number")
    zip: str = Field(pattern=r"^\d{5}$", examples=["12345"])


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    age: int = Field(ge=0, le=150)
    height: Optional[float] = Field(None, gt=0)
    born: Optional[datetime.date] = None
    home: Address
    work: Optional[Address] = Field(default=None, description="if any")
    color: Color = Color.RED


class Things(BaseModel):
    point: tuple[float, float]
    many: tuple[int, ...]
    mixed: tuple[str, int, bool]
    unique: set[str] = Field(default_factory=set)
    size: Size
    counts: dict[str, int]
    by_number: dict[int, str] = {}
    by_color: dict[Color, int] = {}
    choices: list[Literal["a", "b"]] = Field(min_length=1, max_length=3)
    raw: bytes = b""
    price: decimal.Decimal = decimal.Decimal("1.5")
    wait: datetime.timedelta = datetime.timedelta()
    at: Optional[datetime.datetime] = None
    key: Optional[uuid.UUID] = None
    where: Optional[AnyUrl] = None
    host: Optional[IPvAnyAddress] = None
    anything: typing.Any = None
    even: int = Field(0, multiple_of=2)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Owner(BaseModel):
    pet: Union[Cat, Dog] = Field(discriminator="kind")
    other: Union[Cat, Dog, None] = None
    value: Union[int, str, list[int]]


class Node(BaseModel):
    value: int
    children: list["Node"] = []
    next: Optional["Node"] = None


class Page(BaseModel, typing.Generic[typing.TypeVar("T")]):
    items: list[int]
    total: int


class Movie(TypedDict, total=False):
    title: str
    year: int


class Mail(BaseModel):
    to: EmailStr
    again: list[EmailStr] = []


class Names(BaseModel):
    by_code: dict[Annotated[str, Field(pattern="^[a-z]{2}$")], int]
    by_length: dict[Annotated[str, Len(1, 3)], int] = {}


PERSON = {"name": "Ada", "age": 36, "height": 1.7, "born": "1815-12-10", "home": {"street": "a", "zip": "12345"}, "work": None, "color": "green"}
THINGS = {"point": [1.5, 2.0], "many": [1, 2, 3], "mixed": ["a", 1, True], "size": 3, "counts": {"x": 1}, "choices": ["a"]}
PYDANTIC = [
    (Person, [PERSON], [{**PERSON, "age": 200}, {**PERSON, "color": "blue"}, {**PERSON, "home": {"street": "", "zip": "12345"}}, {**PERSON, "home": {"street": "a", "zip": "1234"}}, {**PERSON, "more": 1}]),
    (Things, [THINGS], [{**THINGS, "point": [1.5]}, {**THINGS, "mixed": ["a", 1]}, {**THINGS, "size": 2}, {**THINGS, "counts": {"x": "y"}}, {**THINGS, "choices": []}, {**THINGS, "choices": ["c"]}]),
    (Owner, [{"pet": {"kind": "cat", "lives": 9}, "value": [1]}, {"pet": {"kind": "dog", "name": "x"}, "other": None, "value": "a"}], [{"pet": {"kind": "cow", "lives": 9}, "value": 1}, {"pet": {"kind": "cat", "name": "x"}, "value": 1}, {"pet": {"kind": "cat", "lives": 9}, "value": None}]),
    (Node, [{"value": 1, "children": [{"value": 2}], "next": {"value": 3}}], [{"children": []}, {"value": 1, "children": [{"value": "x"}]}]),
    (Page, [{"items": [1], "total": 1}], [{"items": ["x"], "total": 1}]),
    (Mail, [{"to": "a@b.co", "again": []}], [{"to": 1}]),
    (Names, [{"by_code": {"de": 1}, "by_length": {"abc": 1}}], [{"by_code": {"de": "x"}}, {"by_code": {}, "by_length": {"abcd": 1}}]),
]


def of_pydantic():
    source = f"pydantic {version('pydantic')}"
    for model, valid, invalid in PYDANTIC:
        put(source, model.__name__, model.model_json_schema(), valid, invalid)
        put(source, f"{model.__name__} for output", model.model_json_schema(mode="serialization"))
        put(f"openai {version('openai')}", f"pydantic {model.__name__}", to_strict_json_schema(model))
    put(source, "list of models", RootModel[list[Cat]].model_json_schema(), [[{"kind": "cat", "lives": 1}], []], [[{"kind": "cat"}]])
    put(source, "TypedDict", TypeAdapter(Movie).json_schema(), [{"title": "x"}, {}], [{"year": "x"}])
    put(source, "union", TypeAdapter(Union[Cat, Dog]).json_schema(), [{"kind": "cat", "lives": 1}, {"name": "x"}], [{"kind": "cat", "name": "x"}])
    put(source, "bounded list", TypeAdapter(Annotated[list[Annotated[int, Ge(0), Le(9)]], Len(1, 2)]).json_schema(), [[1], [1, 2]], [[], [10], [1, 2, 3]])
    put(f"openai {version('openai')}", "pydantic_function_tool", pydantic_function_tool(Person)["function"]["parameters"], [PERSON], [{**PERSON, "age": "x"}])


class Base(msgspec.Struct, tag_field="type", kw_only=True):
    id: Annotated[int, msgspec.Meta(ge=1)]


class Circle(Base, tag="circle"):
    r: float


class Box(Base, tag="box", forbid_unknown_fields=True):
    size: tuple[float, float]


class Drawing(msgspec.Struct):
    shapes: list[Union[Circle, Box]]
    title: Annotated[str, msgspec.Meta(min_length=1, pattern="^[A-Z]")]
    tags: set[str] = set()
    meta: dict[str, Union[int, str, None]] = {}
    color: Color = Color.RED
    size: Literal[1, 2] = 1
    at: Optional[datetime.datetime] = None
    raw: bytes = b""


def of_msgspec():
    source = f"msgspec {version('msgspec')}"
    circle = {"type": "circle", "r": 1.5, "id": 1}
    put(source, "drawing", msgspec.json.schema(Drawing), [{"shapes": [circle], "title": "A"}, {"shapes": [], "title": "A", "tags": ["x"], "meta": {"a": None}, "color": "red"}], [{"shapes": [{**circle, "id": 0}], "title": "A"}, {"shapes": [], "title": "a"}, {"shapes": [{"type": "line", "id": 1}], "title": "A"}])
    put(source, "union", msgspec.json.schema(Union[Circle, Box]), [circle], [{"type": "circle", "id": 1}])


async def of_fastmcp():
    from fastmcp import FastMCP

    server = FastMCP("x")

    @server.tool
    def search(query: str, limit: Annotated[int, Field(ge=1, le=100)] = 10, kinds: list[Literal["a", "b"]] | None = None, near: tuple[float, float] | None = None, only: set[str] = set(), where: Address | None = None, extra: dict[str, typing.Any] = {}) -> str:
        """Searches."""
        return query

    @server.tool
    def nothing() -> None:
        """Does nothing."""

    source = f"fastmcp {version('fastmcp')}"
    for tool in await server.list_tools():
        valid = [{"query": "x", "limit": 3, "kinds": ["a"]}, {"query": "x", "near": [1.5, 2.0]}] if tool.name == "search" else [{}]
        invalid = [{"query": "x", "limit": 0}, {"query": "x", "kinds": ["c"]}, {"query": "x", "near": [1.5]}, {"limit": 3}] if tool.name == "search" else []
        put(source, f"tool {tool.name}", tool.parameters, valid, invalid)


# What people, and servers of tools in other languages, write by hand.
BY_HAND = [
    ("draft 4", {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}}, "required": ["n"]}, [{"n": 1}], [{"n": 0}]),
    ("a tuple of old", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"t": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}], "additionalItems": False}, "u": {"type": "array", "items": [{"type": "string"}], "additionalItems": {"type": "boolean"}}}, "required": ["t"]}, [{"t": ["a", 1]}, {"t": ["a"], "u": ["a", True]}], [{"t": [1]}, {"t": ["a", 1, 2]}, {"t": [], "u": ["a", 1]}]),
    ("what says nothing", {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": False, "contains": {"type": "integer"}, "minContains": 0}, "b": {"type": "object", "propertyNames": {"type": "string"}, "dependentRequired": {}, "unevaluatedProperties": True}, "c": {"not": False, "if": {"type": "string"}, "format": "int32", "type": "integer"}, "d": {"type": "array", "uniqueItems": True, "maxItems": 1}}}, [{"a": ["x", "x"], "b": {"q": 1}, "c": 3}, {"d": [1]}], [{"a": [1]}, {"c": "x"}]),
    ("references of all kinds", {"$id": "https://example.com/root", "type": "object", "properties": {"a": {"$ref": "#/$defs/a~1b"}, "b": {"$ref": "#/$defs/c%20d"}, "c": {"$ref": "#here"}, "d": {"$ref": "https://example.com/root#/$defs/a~1b"}, "e": {"$ref": "other"}}, "$defs": {"a/b": {"type": "integer"}, "c d": {"type": "string"}, "x": {"$anchor": "here", "type": "boolean"}, "y": {"$id": "https://example.com/other", "type": "null"}}, "required": ["a"]}, [{"a": 1, "b": "x", "c": True, "d": 2, "e": None}], [{"a": "x"}, {"a": 1, "b": 2}, {"a": 1, "c": 2}, {"a": 1, "e": 2}]),
    ("alternatives behind references", {"type": "object", "properties": {"x": {"oneOf": [{"$ref": "#/definitions/A"}, {"$ref": "#/definitions/B"}, {"type": "null"}]}}, "required": ["x"], "definitions": {"A": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}, "B": {"type": "object", "properties": {"b": {"$ref": "#/definitions/B"}}, "required": [], "additionalProperties": False}}}, [{"x": {"a": 1}}, {"x": {"b": {}}}, {"x": None}], [{"x": {"a": 1, "b": {}}}, {"x": 3}]),
    ("a pointer into properties", {"type": "object", "properties": {"a": {"type": "string", "maxLength": 2}, "b": {"$ref": "#/properties/a"}, "me": {"$ref": "#"}}, "required": ["a"]}, [{"a": "xy", "b": "z", "me": {"a": "q"}}], [{"a": "xyz"}, {"a": "x", "b": "xyz"}, {"a": "x", "me": {}}]),
]


def has_old_tuple(schema):
    if isinstance(schema, dict):
        return isinstance(schema.get("items"), list) or any(map(has_old_tuple, schema.values()))
    return isinstance(schema, list) and any(map(has_old_tuple, schema))


def main():
    folder = pathlib.Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ["package.json", "make.mjs"]:
        shutil.copy(HERE / name, folder)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    js = subprocess.run(["node", "make.mjs"], cwd=folder, check=True, capture_output=True, text=True).stdout
    LINES.extend(map(json.loads, js.splitlines()))
    rust = ["cargo", "run", "--quiet", "--manifest-path", str(HERE / "schemars/Cargo.toml"), "--target-dir", str(folder / "target")]
    LINES.extend(map(json.loads, subprocess.run(rust, check=True, capture_output=True, text=True).stdout.splitlines()))
    of_pydantic()
    of_msgspec()
    asyncio.run(of_fastmcp())
    for name, schema, valid, invalid in BY_HAND:
        put("by hand", name, schema, valid, invalid)
    wrong = 0
    for line in LINES:
        default = jsonschema.Draft7Validator if has_old_tuple(line["schema"]) else jsonschema.Draft202012Validator
        validator = jsonschema.validators.validator_for(line["schema"], default=default)(line["schema"])
        for kind, verdict in [("valid", True), ("invalid", False)]:
            for instance in line[kind]:
                if validator.is_valid(instance) != verdict:
                    wrong += 1
                    print(f"{line['from']} {line['name']}: expected {kind}: {instance}", [error.message for error in validator.iter_errors(instance)][:1], file=sys.stderr)
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in LINES)
    (HERE / "schemas.jsonl").write_text(text)
    print(f"{len(LINES)} schemas, {wrong} objects are not what they should be")
    sys.exit(wrong > 0)


main()
