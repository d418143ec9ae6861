#!/usr/bin/env python3
"""Writes cases.jsonl: what Jinja2 as transformers sets it up makes of expressions and templates.

    pip install jinja2==3.1.6
    python make.py            # from anywhere; expressions.txt, blocks.txt and this file say what is asked

A line is [source, what it renders], "FAILED" for an error and "RAISED: ..." for one of raise_exception's.
The date is no part of it: strftime_now has a test of its own.
"""

import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent


class Generation(Extension):
    """`{% generation %}` renders its block as a call does: what is set in it stays in it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(str(message))


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
)
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception

VARIABLES = (HERE / "variables.json").read_text()


def outcome(source):
    variables = json.loads(VARIABLES)
    messages = [{"role": "user", "content": "Hi"}]
    fixed = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, "documents": None, "tools": None}
    try:
        return ENVIRONMENT.from_string(source).render(**{**fixed, **variables, "messages": messages})
    except Raised as error:
        return f"RAISED: {error}"
    except Exception:
        return "FAILED"


def products():
    """Every operator between numbers of each kind, every method and filter of texts on texts of each kind."""
    numbers = ["0", "7", "-7", "3", "-3", "2.5", "-2.5", "0.1", "1e20", "true", "12345678901234567890"]
    for operator in ["+", "-", "*", "/", "//", "%", "**", "==", "<", ">="]:
        for a in numbers:
            for b in ["3", "-3", "2.5", "0", "true", "12345678901234567890"]:
                if operator == "**" and ("12345678901234567890" in b or a == "1e20"):
                    continue
                yield f"({a}) {operator} ({b})"
    texts = ["''", "'a'", "'Hello World'", "'héllo wörld'", "'ABC123'", "'  x y  '", "'a-b c_d'", "'ß ǆ'", "'12'", "'²'", "'\\t\\n'"]
    methods = "capitalize casefold isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable"
    methods += " isspace istitle isupper lower lstrip rstrip strip split rsplit splitlines swapcase title upper"
    for method in methods.split():
        for text in texts:
            yield f"{text}.{method}()"
    for name in "capitalize title upper lower trim length wordcount list first last reverse string tojson e urlencode int float".split():
        for text in texts:
            yield f"{text}|{name}"
    values = ["none", "true", "0", "1.0", "''", "'x'", "[]", "[1]", "()", "{}", "{'a': 1}", "nothing", "range(3)", "12345678901234567890"]
    tests = "boolean callable defined escaped false float integer iterable mapping none number sequence string true undefined"
    for test in tests.split():
        for value in values:
            yield f"{value} is {test}"
    for name in "length first last list string tojson int float abs round sum min max sort join items default unique reverse pprint count".split():
        for value in values:
            if not (name in "unique reverse items" and value not in ("''", "'x'", "none")):
                yield f"{value}|{name}"
    specs = ["", "d", "5d", "<5d", "^7", "05", "+", " ", ",", "_", "x", "#x", "b", "o", "e", ".2f", "10.3f", "08.2f", ",.1f", "g", ".3g", "%", ".1%", "c", "s", ">6", "*^9"]
    for spec in specs:
        for value in ["65", "-65", "1234567.891", "'ab'", "true", "0.00001", "1e22"]:
            yield "'{:" + spec + "}'.format(" + value + ")"
    for spec in ["s", "r", "d", "i", "5d", "-5d", "05d", "+d", "x", "X", "#x", "o", "e", "f", ".2f", "8.3f", "g", "G", "c", "a", "10s", "-10s", ".2s", "5.1s"]:
        for value in ["65", "-65", "1.5", "'ab'", "none", "[1, 'é']", "1e20"]:
            yield f"'%{spec}|' % ({value},)"


def blocks(text):
    """Templates are divided by lines of dashes."""
    return text.split("\n-----\n")


def main():
    sources = ["{{ " + expression + " }}" for expression in products()]
    lines = (HERE / "expressions.txt").read_text().split("\n")
    sources += ["{{ " + line + " }}" for line in lines if line and not line.startswith("#")]
    sources += blocks((HERE / "blocks.txt").read_text())
    with open(HERE / "cases.jsonl", "w") as file:
        for source in dict.fromkeys(sources):
            rendered = outcome(source)
            # What Python writes with an address is never the same twice.
            if " at 0x" not in rendered:
                file.write(json.dumps([source, rendered], ensure_ascii=False) + "\n")


main()
