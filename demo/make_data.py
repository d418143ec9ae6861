"""The small world of the demo model: a seeded generator of dialogues.

Every dialogue is rendered with `chat_template.jinja`, the template the packed model carries. The banks are small on
purpose: a model of five million parameters that sees a few million tokens can learn to combine what it has seen,
not to copy what it has not. What is held out are combinations: one in ten (operands of a sum, values of a call, wording
of a question; by a hash) never occurs in training.

`World(seed)` yields training samples, `World(seed, held_out=True)` test questions. Run as a script it writes
`questions.jsonl`.
"""

import json
import random
import zlib
from pathlib import Path

import jinja2

HERE = Path(__file__).parent
SEED = 20261121
KINDS = ["arithmetic", "talk", "tool", "json", "story"]

_env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
_env.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
TEMPLATE = _env.from_string((HERE / "chat_template.jinja").read_text())


def render(messages, tools=None, generate=False):
    return TEMPLATE.render(messages=messages, tools=tools, add_generation_prompt=generate, bos_token="<|startoftext|>")


def is_held(key):
    """One fact in ten belongs to the held-out set."""
    return zlib.crc32(repr(key).encode()) % 10 == 0


# ---------------------------------------------------------------- banks

NAMES = "Anna Ben Carla David Elena Felix Grace Hugo Irene Jack Kim Leo Maria Nora Omar Paula Rosa Sam Tina Victor".split()
CITIES = "Paris London Rome Berlin Madrid Lisbon Vienna Prague Oslo Athens Cairo Tokyo Seoul Sydney Toronto Boston".split()
COLORS = "red blue green yellow black white orange brown".split()
ITEMS = "apples books coins pencils cookies stamps cards eggs stones balls".split()
PRODUCTS = "lamp chair table phone shirt hat clock camera bike desk".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
CURRENCIES = "USD EUR GBP JPY CHF".split()
SKIES = "sunny cloudy rainy windy snowy foggy".split()
JOBS = "doctor teacher baker pilot farmer nurse painter singer".split()
HEROES = "fox dog cat robot bear rabbit mouse dragon owl frog".split()
PLACES = "forest city castle garden river mountain village desert".split()
THINGS = "lamp key map bell ring book boat kite".split()

ADD = ["What is {a} + {b}?", "Add {a} and {b}.", "{a}+{b}=", "{a} plus {b}", "Compute {a} + {b}.", "How much is {a} plus {b}?",
       "{n} has {a} {i} and gets {b} more. How many {i} does {n} have now?"]
SUBTRACT = ["What is {a} - {b}?", "Subtract {b} from {a}.", "{a}-{b}=", "{a} minus {b}", "Compute {a} - {b}.",
            "How much is {a} minus {b}?", "{n} has {a} {i} and loses {b}. How many {i} are left?"]
MULTIPLY = ["What is {a} * {b}?", "Multiply {a} by {b}.", "{a}*{b}=", "{a} times {b}", "Compute {a} * {b}.",
            "How much is {a} times {b}?", "{n} has {a} boxes with {b} {i} each. How many {i} is that?"]

# (questions, answer, words the answer must have)
TALK = [
    (["hello", "hi", "hey", "good morning", "good evening", "hello there"],
     "Hello! I am the Undine demo model. How can I help you?", ["hello"]),
    (["who are you", "what are you", "what is your name", "introduce yourself", "tell me who you are", "what model are you"],
     "I am the demo model of Undine, a tiny LFM2 model with five million parameters.", ["demo model", "tiny"]),
    (["what is Undine", "what does Undine do", "tell me about Undine", "explain Undine", "describe Undine", "what is this program"],
     "Undine is an inference engine for LFM2 models. It is written in Rust.", ["inference engine", "rust"]),
    (["what can you do", "how can you help me", "what are you good at", "what do you know", "what should I ask you"],
     "I can do small sums, call tools, answer in JSON and tell short stories.", ["sums", "json", "stories"]),
    (["what is LFM2", "tell me about LFM2", "explain LFM2", "what are LFM2 models", "who made LFM2"],
     "LFM2 is a family of hybrid models by Liquid AI. Most layers are short convolutions, a few are attention.",
     ["hybrid", "liquid ai"]),
    (["how do I load my own model", "how can I run my model", "how do I use another model", "can you load my file"],
     "Give the file to Undine: undine run model.gguf", ["undine run model.gguf"]),
    (["how do I start a server", "how can I serve a model", "is there an API", "how do I use the API"],
     "Start it with undine serve. It speaks the OpenAI API.", ["undine serve", "openai"]),
    (["thank you", "thanks", "thanks a lot", "many thanks", "thank you very much"], "You are welcome!", ["welcome"]),
    (["goodbye", "bye", "see you", "good night", "see you later"], "Goodbye! Come back soon.", ["goodbye"]),
    (["are you big", "how big are you", "how many parameters do you have", "what is your size", "are you a large model"],
     "I am very small. I have about five million parameters.", ["five million"]),
    (["which language is Undine written in", "what is Undine written in", "is Undine written in Rust"],
     "Undine is written in Rust.", ["rust"]),
    (["does Undine need a GPU", "do I need a GPU", "can it run on a CPU", "what hardware do I need"],
     "No GPU is needed. Undine runs on the CPU.", ["cpu"]),
    (["who is the president", "what is the capital of France", "write a poem", "what is the meaning of life", "who won the game",
      "translate this text", "how tall is the tower", "what happened in the news"],
     "I am a tiny demo model and do not know that. Try a sum or a story.", ["tiny demo model"]),
]
BEFORE = ["", "", "", "Please: ", "Hey, ", "One question: ", "Tell me, ", "Okay, "]
AFTER = ["?", "", ".", "!", " please", " now?"]

STORIES = ["Tell me a story about a {hero} in the {place}.", "Write a short story about a {hero} in a {place}.",
           "A story about a {hero} and a {place}, please.", "Tell a story with a {hero} in the {place}."]
PLOTS = [
    "One day a little {hero} went to the {place}. There the {hero} found a {color} {thing}. The {hero} took the {thing} home "
    "and was very happy.",
    "A {color} {hero} lived in the {place}. The {hero} had lost a {thing}. A friend came and found it. They played until night.",
    "Once there was a {hero} who loved the {place}. Every day the {hero} looked for a {color} {thing}. At last it was there. "
    "The {hero} slept well that night.",
]


def tool(name, description, **properties):
    """An OpenAI function; `properties` maps a name to its JSON type."""
    parameters = {"type": "object", "properties": {k: {"type": v} for k, v in properties.items()}, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


# name -> (definition, ways to ask, drawn arguments, result, what is said of the result)
TOOLS = {
    "get_weather": (tool("get_weather", "Weather in a city", city="string"),
                    ["What is the weather in {city}?", "Weather in {city}?", "How is the weather in {city} today?"],
                    {"city": CITIES}, {"sky": SKIES, "degrees": range(5, 35)}, "It is {sky} in {city}, {degrees} degrees."),
    "set_timer": (tool("set_timer", "Set a timer", minutes="integer"),
                  ["Set a timer for {minutes} minutes.", "Timer, {minutes} minutes.", "Wake me in {minutes} minutes."],
                  {"minutes": range(2, 60)}, {"status": ["set"]}, "The timer is set for {minutes} minutes."),
    "send_message": (tool("send_message", "Send a message", to="string", text="string"),
                     ["Tell {to}: {text}.", "Send {to} the message: {text}.", "Message {to}: {text}."],
                     {"to": NAMES, "text": ["I am late", "dinner is ready", "call me back", "good luck", "see you soon", "thank you"]},
                     {"status": ["sent"]}, "I sent it to {to}."),
    "convert_currency": (tool("convert_currency", "Convert money", amount="integer", source="string", target="string"),
                         ["Convert {amount} {source} to {target}.", "How much is {amount} {source} in {target}?"],
                         {"amount": range(10, 100), "source": CURRENCIES, "target": CURRENCIES},
                         {"value": range(10, 100)}, "{amount} {source} are {value} {target}."),
    "turn_on_light": (tool("turn_on_light", "Turn on a light", room="string", color="string"),
                      ["Make the light in the {room} {color}.", "Turn on the {color} light in the {room}."],
                      {"room": ["kitchen", "bedroom", "bathroom", "office", "hall", "garage"], "color": COLORS},
                      {"status": ["on"]}, "The {color} light in the {room} is on."),
    "add_event": (tool("add_event", "Add to the calendar", title="string", day="string"),
                  ["Put {title} on {day} in my calendar.", "I have {title} on {day}, add it.", "Plan {title} for {day}."],
                  {"title": ["lunch", "football", "a meeting", "the dentist", "piano", "shopping"], "day": DAYS},
                  {"status": ["added"]}, "I added {title} on {day}."),
    "play_music": (tool("play_music", "Play music", style="string"),
                   ["Play some {style}.", "I want to hear {style}.", "Put on {style} music."],
                   {"style": ["jazz", "rock", "pop", "blues", "classical", "techno"]}, {"status": ["playing"]}, "Now playing {style}."),
}

# what is said -> the object; every slot of the object is drawn
RECORDS = [
    ("{name} is {age} years old.", {"name": NAMES, "age": range(10, 90)}),
    ("{name} is a {job} from {city}.", {"name": NAMES, "job": JOBS, "city": CITIES}),
    ("The {color} {product} costs {price} dollars.", {"product": PRODUCTS, "color": COLORS, "price": range(10, 100)}),
    ("{name} buys {count} {item}.", {"name": NAMES, "count": range(2, 50), "item": ITEMS}),
    ("On {day} it is {sky} in {city}.", {"day": DAYS, "sky": SKIES, "city": CITIES}),
]
ASK_JSON = ["Answer in JSON with keys {keys}: {text}", "JSON with {keys}: {text}", "Give me JSON ({keys}). {text}"]


def ask(content):
    return {"role": "user", "content": content}


def answer(content):
    return {"role": "assistant", "content": content}


class World:
    """Samples of one side of the split."""

    def __init__(self, seed=SEED, held_out=False):
        self.r = random.Random(seed)
        self.held_out = held_out

    def draw(self, make):
        """Repeats `make` -> (key, value) until the key is on our side of the split."""
        while True:
            key, value = make()
            if is_held(key) == self.held_out:
                return value

    def fill(self, banks):
        return {name: self.r.choice(list(bank)) for name, bank in banks.items()}

    # each kind: (tools, messages up to and with the answer, check)

    def arithmetic(self):
        op = self.r.choice("++--*")

        def make():
            a, b = (self.r.randint(2, 9), self.r.randint(2, 9)) if op == "*" else (self.r.randint(0, 99), self.r.randint(0, 99))
            if op == "-":
                a, b = max(a, b), min(a, b)
            wording = self.r.randrange(7)
            # A product cannot be worked out digit by digit, so its facts are known and only the wording is new.
            return ((op, a, b, wording) if op == "*" else (op, a, b)), (a, b, wording)
        a, b, wording = self.draw(make)
        forms = {"+": ADD, "-": SUBTRACT, "*": MULTIPLY}[op]
        question = forms[wording].format(a=a, b=b, n=self.r.choice(NAMES), i=self.r.choice(ITEMS))
        result, work = solve(op, a, b)
        check = {"answer_contains": [f"answer is {result}."]}
        return None, [ask(question), answer(f"<think>{work}</think>\nThe answer is {result}.")], check

    def talk(self):
        def make():
            questions, said, words = self.r.choice(TALK)
            text = self.r.choice(BEFORE) + self.r.choice(questions) + self.r.choice(AFTER)
            return text, (text[0].upper() + text[1:], said, words)
        text, said, words = self.draw(make)
        return None, [ask(text), answer(said)], {"answer_contains": words}

    def pick_tools(self, name):
        """One to three definitions, the named one among them, in any order."""
        others = self.r.sample([other for other in TOOLS if other != name], self.r.choice([0, 0, 1, 1, 2]))
        names = others + [name]
        self.r.shuffle(names)
        return [TOOLS[n][0] for n in names]

    def tool(self):
        def make():
            name = self.r.choice(list(TOOLS))
            _, ways, banks, *_ = TOOLS[name]
            arguments, way = self.fill(banks), self.r.choice(ways)
            # Few values leave few combinations, so there the wording belongs to the fact.
            return (name, sorted(arguments.items()), way), (name, arguments, way)
        name, arguments, way = self.draw(make)
        _, _, _, results, said = TOOLS[name]
        call = answer("")
        call["tool_calls"] = [{"type": "function", "function": {"name": name, "arguments": arguments}}]
        tools, messages = self.pick_tools(name), [ask(way.format(**arguments)), call]
        if self.r.random() < 0.7:
            return tools, messages, {"tool_call": {"name": name, "arguments": arguments}}
        result = self.fill(results)
        said = said.format(**arguments, **result)
        messages += [{"role": "tool", "content": json.dumps(result)}, answer(said)]
        return tools, messages, {"answer_contains": [said]}

    def json(self):
        def make():
            text, banks = self.r.choice(RECORDS)
            record, way = self.fill(banks), self.r.choice(ASK_JSON)
            return sorted(record.items(), key=str), (text.format(**record), record, way)
        text, record, way = self.draw(make)
        keys = list(record)
        keys = ", ".join(keys[:-1]) + " and " + keys[-1]
        return None, [ask(way.format(keys=keys, text=text)), answer(json.dumps(record))], {"equals_json": record}

    def story(self):
        def make():
            hero, place, way = self.r.choice(HEROES), self.r.choice(PLACES), self.r.choice(STORIES)
            return (hero, place, way), (hero, place, way)
        hero, place, way = self.draw(make)
        text = self.r.choice(PLOTS).format(hero=hero, place=place, color=self.r.choice(COLORS), thing=self.r.choice(THINGS))
        check = {"answer_contains": [hero, place], "min_sentences": 3}
        return None, [ask(way.format(hero=hero, place=place)), answer(text)], check

    def sample(self):
        """-> (kind, rendered text, for each assistant turn whether to learn it)"""
        if self.r.random() < 0.02:
            return "plain", "<|startoftext|>" + self.story()[1][-1]["content"] + "<|endoftext|>", None
        kind = self.r.choices(KINDS, [34, 16, 22, 16, 12])[0]
        tools, messages, _ = getattr(self, kind)()
        while self.r.random() < 0.15:
            other = self.r.choice(["arithmetic", "talk", "json", "story"])
            messages = getattr(self, other)()[1] + messages
        if tools is None and self.r.random() < 0.1:
            messages.insert(0, {"role": "system", "content": self.r.choice(["You are a helpful assistant.", "Be brief."])})
        # Past thinking is cut by the template, so a turn that thought is learned only where it is the last.
        turns = [message for message in messages if message["role"] == "assistant"]
        learn = ["<think>" not in turn["content"] or turn is turns[-1] for turn in turns]
        return kind, render(messages, tools), learn


def solve(op, a, b):
    """-> result, and the written work: ones, then tens with what was carried."""
    if op == "*":
        return a * b, f"{a} * {b} = {a * b}"
    if op == "+":
        carry = (a % 10 + b % 10) // 10
        return a + b, (f"{a} + {b}. {a % 10} + {b % 10} = {a % 10 + b % 10}. "
                       f"{a // 10} + {b // 10} + {carry} = {a // 10 + b // 10 + carry}.")
    borrow = int(a % 10 < b % 10)
    ones = a % 10 + 10 * borrow
    return a - b, (f"{a} - {b}. {ones} - {b % 10} = {ones - b % 10}. "
                   f"{a // 10} - {b // 10} - {borrow} = {a // 10 - b // 10 - borrow}.")


def test_items(per_kind, seed):
    """Held-out questions; `per_kind` maps a kind to how many."""
    world, out = World(seed, held_out=True), []
    for kind, count in per_kind.items():
        seen = set()
        while len(seen) < count:
            tools, messages, check = getattr(world, kind)()
            messages = messages[:-1]
            key = json.dumps([messages, tools])
            if key not in seen:
                seen.add(key)
                item = {"id": f"{kind}-{len(seen)}", "kind": kind, "messages": messages}
                out.append(item | ({"tools": tools} if tools else {}) | {"check": check})
    return out


if __name__ == "__main__":
    with open(HERE / "questions.jsonl", "w") as file:
        for item in test_items({"arithmetic": 16, "talk": 8, "tool": 10, "json": 8, "story": 8}, SEED + 30):
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
