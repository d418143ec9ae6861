"""The small world of the demo model: a seeded generator of dialogues.

Every dialogue is rendered with `chat_template.jinja`, the same template that the packed
model carries. Facts are split into training and held-out by a hash of the fact (operands,
names, arguments, wording), so a held-out question never occurs in training.

`World(seed, held_out=False)` yields training samples, `held_out=True` test questions.
Run as a script it writes `questions.jsonl`.
"""

import json
import random
import re
import string
import zlib
from pathlib import Path

import jinja2

HERE = Path(__file__).parent
SEED = 20261121
KINDS = ["arithmetic", "talk", "tool", "json", "story"]


def is_held(key):
    """One fact in ten belongs to the held-out set."""
    return zlib.crc32(repr(key).encode()) % 10 == 0


# ---------------------------------------------------------------- rendering

_env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
_env.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
TEMPLATE = _env.from_string((HERE / "chat_template.jinja").read_text())


def render(messages, tools=None, generate=False):
    return TEMPLATE.render(messages=messages, tools=tools, add_generation_prompt=generate,
                           bos_token="<|startoftext|>")


# ---------------------------------------------------------------- word banks

NAMES = """Anna Ben Carla David Elena Felix Grace Hugo Irene Jack Kim Leo Maria Nora Omar Paula Quinn
Rosa Sam Tina Uma Victor Wendy Xavier Yara Zoe Alice Bob Chloe Daniel Emma Frank Gina Henry Ivan Julia
Kevin Laura Marco Nina Oscar Peter Ruth Simon Tom Ursula Vera Walter Yusuf Zara Adam Bella Carlos Diana
Erik Fatima George Hannah Ingrid James Karen Louis Mina Noah Olga Pablo Rita Stefan Tara Viktor Amir
Bruno Clara Dora Emil Fiona Gustav Helen Isaac Jonas Katya Liam Mei Nils Olivia Priya Raj Sofia Theo
Lucy Max Ella John Mary Sara Paul Mark Lisa""".split()
CITIES = """Paris London Rome Berlin Madrid Lisbon Vienna Prague Warsaw Dublin Oslo Helsinki Athens Cairo
Tokyo Osaka Kyoto Seoul Beijing Mumbai Delhi Sydney Melbourne Toronto Montreal Boston Chicago Denver
Dallas Austin Miami Seattle Portland Phoenix Lima Quito Bogota Santiago Nairobi Lagos Accra Tunis Dubai
Istanbul Ankara Moscow Kyiv Riga Vilnius Tallinn Zurich Geneva Basel Milan Turin Naples Venice Florence
Barcelona Valencia Porto Lyon Nice Hamburg Munich Cologne Bremen Leipzig Dresden Amsterdam Rotterdam
Brussels Antwerp Copenhagen Stockholm Bergen Glasgow Edinburgh Bristol Leeds Manchester Liverpool York
Cambridge Oxford Bath Krakow Budapest Sofia Belgrade Zagreb Singapore Bangkok Hanoi Manila Jakarta""".split()
CITIES += ["New York", "San Francisco", "Los Angeles", "Cape Town", "Hong Kong", "Mexico City", "Buenos Aires"]
COLORS = "red blue green yellow black white orange purple pink brown gray silver".split()
FRUITS = "apples pears oranges lemons bananas plums cherries grapes peaches mangoes".split()
ANIMALS = "dog cat horse rabbit parrot hamster turtle fish cow goat sheep duck".split()
JOBS = "doctor teacher baker pilot farmer nurse painter singer writer engineer cook driver lawyer dentist".split()
ITEMS = "apples books coins marbles stickers pencils cookies shells stamps cards eggs stones flowers balls".split()
PRODUCTS = "lamp chair table phone laptop bag shirt jacket hat clock mug bottle camera bike desk sofa".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
ROOMS = "kitchen bedroom bathroom hall office garage garden attic".split() + ["living room"]
CURRENCIES = "USD EUR GBP JPY CHF CAD AUD SEK INR CNY".split()
LANGUAGES = "French German Spanish Italian Japanese Chinese Dutch Polish Greek Arabic Korean Swedish".split()
MEALS = "pizza sushi pasta tacos curry ramen soup salad burgers noodles".split()
SKIES = "sunny cloudy rainy windy snowy foggy clear stormy".split()
SYLLABLES = """ba be bi bo bu da de di do du fa fe fi ga ge go ha he hi ho ja jo ka ke ki ko ku la le li lo lu ma me
mi mo mu na ne ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we ya yo za zo
bran kel mor tan vel dor lin ris ton mar sen gol fer nar wen thal ost""".split()
WORDS = """time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city community name president team minute idea kid body information
back parent face others level office door health person art war history party result change morning reason research
girl guy moment air teacher force education meeting lunch dinner breakfast train ticket garden music song movie
picture paper letter report window bridge road street market shop bread cheese milk coffee tea sugar salt flower
tree river mountain sea island beach forest field farm bird summer winter spring autumn rain snow wind storm""".split()
VERBS = """call buy clean fix read write send bring find check wash paint water feed visit order cook pack
return open close move sell print book plan update review finish start""".split()
TASKS = ["{v} the {w}", "{v} a {w}", "{v} the {c} {w}", "{v} {n}", "{v} the {w} for {n}", "{v} the {w} and the {x}"]
TEXTS = ["I will be late", "see you at {h}", "the {w} is ready", "happy birthday", "call me back",
         "can we meet on {d}", "the {w} starts at {h}", "I am at the {w}", "thank you for the {w}", "good morning",
         "please bring the {w}", "we are on our way", "dinner is at {h}", "do not forget the {w}", "good luck"]
TOPICS = ["the best {w} in {city}", "{w} and {x}", "how to {v} a {w}", "{c} {w}", "the history of {city}",
          "cheap {w}", "{city} {w}", "{lang} {w}", "the weather in {month}", "a {w} near {city}"]


# ---------------------------------------------------------------- sampling

class World:
    def __init__(self, seed=SEED, held_out=False):
        self.r = random.Random(seed)
        self.held_out = held_out

    # small helpers ------------------------------------------------

    def draw(self, make):
        """Repeat `make` -> (key, value) until the key is on our side of the split."""
        while True:
            key, value = make()
            if is_held(key) == self.held_out:
                return value

    def one(self, options):
        return self.r.choice(options)

    def chance(self, p):
        return self.r.random() < p

    def word(self):
        """A made-up word, so that copying does not depend on knowing the word."""
        return "".join(self.one(SYLLABLES) for _ in range(self.r.randint(2, 3)))

    def name(self):
        return self.word().capitalize() if self.chance(0.3) else self.one(NAMES)

    def city(self):
        return self.word().capitalize() if self.chance(0.2) else self.one(CITIES)

    def clock(self):
        return f"{self.r.randint(0, 23)}:{self.one(['00', '15', '30', '45', '10', '20', '50'])}"

    def fill(self, text):
        """Fill {v} verb, {w} {x} nouns, {c} color, {n} name, {h} clock, {d} day, ..."""
        slots = {"v": lambda: self.one(VERBS), "w": lambda: self.one(WORDS), "x": lambda: self.one(WORDS),
                 "c": lambda: self.one(COLORS), "n": self.name, "h": self.clock, "d": lambda: self.one(DAYS),
                 "city": self.city, "lang": lambda: self.one(LANGUAGES), "month": lambda: self.one(MONTHS),
                 "name": self.name, "meal": lambda: self.one(MEALS), "word": self.word}
        return re.sub(r"\{(\w+)\}", lambda m: str(slots[m[1]]()), text)

    def expand(self, text):
        """Choose among (a|b|c) alternatives, innermost first."""
        while "(" in text:
            text = re.sub(r"\(([^()]*)\)", lambda m: self.one(m[1].split("|")), text)
        text = re.sub(r" +", " ", text).strip()
        return text[:1].upper() + text[1:]

    def rough(self, text):
        """Sometimes write the way people type: lower case, no final mark."""
        if self.chance(0.12):
            text = text[:1].lower() + text[1:]
        if self.chance(0.12):
            text = text.rstrip(".?!")
        return text

    # arithmetic ---------------------------------------------------

    def operands(self, op):
        def make():
            if op == "*":
                a, b = self.r.randint(2, 9), self.r.randint(1, 99 if self.chance(0.8) else 12)
                if self.chance(0.5):
                    a, b = b, a
            elif op == "/":
                b = self.r.randint(2, 9)
                a = b * self.r.randint(1, 10)
            else:
                a, b = (self.r.randint(0, 99 if self.chance(0.85) else 9) for _ in "ab")
                if op == "-" and a < b and self.chance(0.9):
                    a, b = b, a
            key = ("sum", op, *(sorted((a, b)) if op in "+*" else (a, b)))
            return key, (a, b)
        # the ten times ten table is too small to hold anything out
        return make()[1] if op == "/" else self.draw(make)

    def arithmetic(self):
        op = self.one("+++---***/") if not self.held_out else self.one("+-*")
        a, b = self.operands(op)
        result, work = solve(op, a, b)
        if op != "/" and self.chance(0.25) and not (op == "-" and a < b) and a > 1 and b > 1:
            ask, tell = self.one(WORD_PROBLEMS[op])
            n = self.name()
            m = self.name()
            item = self.one(ITEMS)
            slots = dict(a=a, b=b, r=result, n=n, m=m, i=item)
            user, answer = ask.format(**slots), tell.format(**slots)
        else:
            ask, tell = self.one(SUMS[op] + SUMS["any"])
            sign = self.one({"+": "+", "-": "-", "*": "*x×", "/": "/÷"}[op])
            if op == "*" and "{a}{s}{b}" not in ask and self.chance(0.2):
                sign = "times"
            slots = dict(a=a, b=b, r=result, s=sign)
            user, answer = self.rough(ask.format(**slots)), tell.format(**slots)
        return user, f"<think>{work}</think>\n{answer}", {"answer_contains": [str(result)]}, (op, a, b, result)

    # small talk ---------------------------------------------------

    def talk(self):
        def make():
            asks, tells, keys = self.one(TALK)
            ask = self.expand(self.one(asks))
            return ("talk", ask.lower().strip(".?! ")), (ask, self.one(tells), keys)
        if self.chance(0.25):
            def make_other():
                ask = self.fill(self.expand(self.one(OTHER)))
                return ("other", ask.lower()), (ask, self.one(FALLBACK), ["tiny demo model"])
            ask, answer, keys = self.draw(make_other)
        else:
            ask, answer, keys = self.draw(make)
        if not ask.endswith(tuple(".?!")):
            ask += self.one(["", "", "!", "."]) if ask.split()[0].lower() in ("hi", "hello", "hey", "thanks") else "."
        return self.rough(ask), answer, {"contains_any": keys}

    # tools --------------------------------------------------------

    def value(self, kind):
        r = self.r
        if kind in ("int", "minutes"):
            return r.choice([5, 10, 15, 20, 25, 30, 45]) if self.chance(0.3) else r.randint(1, 99)
        if kind == "id":
            return r.randint(100, 9999)
        if kind == "amount":
            return r.randint(1, 999) if self.chance(0.7) else r.randint(10, 990) / 10
        if kind == "degrees":
            return r.randint(10, 30)
        if kind == "expr":
            return f"{r.randint(1, 999)} {self.one('+-*/')} {r.randint(1, 999)}"
        if kind == "text":
            return self.fill(self.one(TEXTS))
        if kind == "task":
            return self.fill(self.one(TASKS))
        if kind == "topic":
            return self.fill(self.one(TOPICS))
        if kind == "title":
            return self.fill(self.one(["{w} with {n}", "{w}", "{w} meeting", "{n}'s {w}", "team {w}", "{x} {w}"]))
        if kind == "word":
            return self.one(WORDS) if self.chance(0.6) else self.word()
        if kind == "onoff":
            return self.one(["on", "off"])
        if kind == "unit":
            return self.one(UNITS)
        simple = {"city": self.city, "name": self.name, "time": self.clock}
        if kind in simple:
            return simple[kind]()
        return self.one({"day": DAYS, "currency": CURRENCIES, "language": LANGUAGES, "room": ROOMS, "meal": MEALS,
                         "color": COLORS, "month": MONTHS}[kind])

    def make_tool(self):
        """One concrete tool: its schema, and a way to ask for it."""
        if self.chance(0.25):
            verb, noun = self.one(LOOKUP_VERBS), self.one(LOOKUP_NOUNS)
            spec = {"names": [f"{verb}_{noun}"], "about": [f"{verb.capitalize()} {article(noun)} {noun}"],
                    "params": [([f"{noun}_id", "id", "number"], "id", f"The {noun} number")],
                    "asks": [f"{verb.capitalize()} {noun} {{0}}.", f"Please {verb} {noun} {{0}}.",
                             f"Can you {verb} {noun} {{0}}?", f"I want you to {verb} {noun} number {{0}}.",
                             f"{verb.capitalize()} {noun} number {{0}} for me."],
                    "result": {"status": ["ok", "done", "not found"]},
                    "reply": f"The answer for {noun} {{0}} is: {{status}}."}
        else:
            spec = self.one(TOOLS)
        name = self.one(spec["names"])
        params = [(self.one(names), kind, about) for names, kind, about in spec["params"]]
        properties = {}
        style = self.chance(0.4)
        for p, kind, about in params:
            properties[p] = {"type": JSON_TYPES.get(kind, "string")}
            if style:
                properties[p]["description"] = about
        schema = {"type": "object", "properties": properties}
        if params and self.chance(0.7):
            schema["required"] = [p for p, _, _ in params]
        tool = {"type": "function",
                "function": {"name": name, "description": self.one(spec["about"]), "parameters": schema}}
        return spec, name, params, tool

    def ask_tool(self, made, same=None):
        spec, name, params, _ = made

        def make():
            values = [self.value(kind) for _, kind, _ in params]
            if len(values) > 1 and any(isinstance(v, str) and values.count(v) > 1 for v in values):
                return make()
            ask = self.one(spec["asks"])
            return ("tool", spec["names"][0], *values), (ask, values)
        # tools without arguments have nothing to hold out
        ask, values = self.draw(make) if params else make()[1]
        call = {"name": name, "arguments": {p: v for (p, _, _), v in zip(params, values)}}
        return ask.format(*values), call, values

    def tools(self):
        """A list of tools, a request, and the conversation that follows from it."""
        count = self.one([1, 1, 2, 2, 2, 3])
        made, seen = [], set()
        while len(made) < count:
            m = self.make_tool()
            head = m[0]["names"][0]
            if head not in seen:
                seen.add(head)
                made.append(m)
        target = self.one(made)
        if self.held_out and not target[2]:
            return self.tools()         # a call without arguments has nothing that could be held out
        spec = target[0]
        tools = [m[3] for m in made]
        roll = self.r.random()
        if roll < 0.10 and not self.held_out:                       # nothing fits
            kind = self.r.random()
            if kind < 0.35:
                user, answer, _ = self.talk()
            elif kind < 0.6 and "calculator" not in seen:
                user, answer, *_ = self.arithmetic()
            else:
                other = self.make_tool()
                if other[0]["names"][0] in seen or not other[2]:
                    return self.tools()
                user, _, _ = self.ask_tool(other)
                answer = "None of my tools can do that."
            return tools, [msg("user", user), msg("assistant", answer)], {"contains_any": ["None of my tools"]}
        user, call, values = self.ask_tool(target)
        if roll < 0.22:                                             # two calls
            second = self.one(made) if self.chance(0.6) else target
            user2, call2, _ = self.ask_tool(second)
            if call2 != call:
                joined = user + self.one([" Also: ", " And then: ", " Then ", " ", " Also, "]) + user2
                answer = msg("assistant", "", [call, call2])
                return tools, [msg("user", joined), answer], {"tool_calls": [call, call2]}
        if self.chance(0.1):
            user = self.one(["Hi! ", "Hello. ", "Undine, ", "Please help me. "]) + user
        messages = [msg("user", self.rough(user) if not self.held_out else user), msg("assistant", "", [call])]
        check = {"tool_call": call}
        if spec.get("reply") and self.chance(0.35):
            result = {k: (self.one(v) if isinstance(v, list) else self.value(v)) for k, v in spec["result"].items()}
            messages.append(msg("tool", json.dumps(result, ensure_ascii=False)))
            messages.append(msg("assistant", spec["reply"].format(*values, **result)))
            check = {"answer_contains": [messages[-1]["content"].rstrip(".")]}
        return tools, messages, check

    # JSON ---------------------------------------------------------

    def json_task(self):
        if self.chance(0.25):
            return self.json_list()

        def make():
            fields, sentences = self.one(SCHEMAS)
            sentence = self.one(sentences)
            used = [f for _, f, _, _ in string.Formatter().parse(sentence) if f]
            values = {f: self.field(fields[f]) for f in used}
            text = sentence.format(**values)
            keys = self.r.sample(used, self.r.randint(2, len(used)) if len(used) > 1 else 1)
            if self.chance(0.5):
                keys = [f for f in used if f in keys]
            return ("json", *(str(v) for v in values.values())), (text, keys, {k: values[k] for k in keys})
        text, keys, out = self.draw(make)
        user = self.one(JSON_ASKS).format(keys=join(keys), text=text)
        return user, json.dumps(out, ensure_ascii=False), {"equals_json": out}

    def json_list(self):
        def make():
            key, bank = self.one([("colors", COLORS), ("fruits", FRUITS), ("animals", ANIMALS), ("names", NAMES),
                                  ("cities", CITIES), ("days", DAYS), ("jobs", JOBS), ("words", WORDS),
                                  ("numbers", None), ("items", PRODUCTS), ("months", MONTHS)])
            n = self.r.randint(2, 4)
            items = [self.r.randint(1, 99) for _ in range(n)] if bank is None else self.r.sample(bank, n)
            return ("list", *items), (key, items)
        key, items = self.draw(make)
        if self.chance(0.5):
            ask = self.one(["Make a JSON list of the {k}: {t}.", "Give me a JSON array with these {k}: {t}.",
                            "Write {t} as a JSON list.", "Turn these {k} into a JSON array: {t}."])
            out = items
        else:
            ask = self.one(["Answer in JSON with key {k}: {t}.", "Return a JSON object with the key {k}: {t}.",
                            "Put {t} into JSON under the key {k}."])
            out = {key: items}
        return ask.format(k=key, t=join(items)), json.dumps(out), {"equals_json": out}

    def field(self, kind):
        r = self.r
        return {"name": self.name, "city": self.city, "age": lambda: r.randint(2, 99),
                "price": lambda: r.randint(1, 400) if self.chance(0.6) else r.randint(10, 990) / 10,
                "count": lambda: r.randint(2, 60), "year": lambda: r.randint(1850, 2025), "time": self.clock,
                "day": lambda: self.one(DAYS), "job": lambda: self.one(JOBS), "color": lambda: self.one(COLORS),
                "product": lambda: self.one(PRODUCTS), "animal": lambda: self.one(ANIMALS),
                "fruit": lambda: self.one(FRUITS), "event": lambda: self.one(["concert", "meeting", "party", "lecture",
                "game", "wedding", "lunch", "show", "class", "race", "exam"]), "room": lambda: self.one(ROOMS),
                "title": lambda: self.fill(self.one(["The {c} {w}", "{c} {w}", "The {w} of {city}", "A {w} in {month}"])),
                "month": lambda: self.one(MONTHS), "temp": lambda: r.randint(-9, 38), "sky": lambda: self.one(SKIES),
                "mail": lambda: f"{self.one(NAMES).lower()}@{self.one(['mail', 'post', 'web', 'home'])}.{self.one(['com', 'org', 'net'])}",
                "phone": lambda: f"555-{r.randint(1000, 9999)}", "language": lambda: self.one(LANGUAGES)}[kind]()

    # stories ------------------------------------------------------

    def story(self):
        def make():
            hero, place = self.one(HEROES), self.one(PLACES)
            return ("story", hero, place), (hero, place)
        hero, place = self.draw(make)
        asked_place = self.chance(0.6)
        kind = hero
        adj = self.one(["little", "brave", "young", "old", "kind", "clever", "small", "shy", "happy", "tired"])
        if self.chance(0.25):
            kind = f"{adj} {hero}"
        named = self.name() if self.chance(0.2) else None
        what = f"{article(kind)} {kind}" + (f" named {named}" if named else "")
        ask = self.one(STORY_ASKS).format(hero=what, place=f" {place}" if asked_place else "")
        text = self.tell(hero, kind, place, named)
        need = [hero] + ([place.split()[-1]] if asked_place else []) + ([named] if named else [])
        return self.rough(ask), text, {"answer_contains": need, "min_sentences": 3}

    def tell(self, hero, kind, place, named):
        friend = self.one([h for h in FRIENDS if h != hero])
        slots = dict(kind=f"{article(kind)} {kind}" + (f" named {named}" if named else ""), place=place,
                     hero=named or f"the {hero}", friend=friend, a_friend=f"{article(friend)} {friend}",
                     thing=self.one(THINGS), day=self.one(["One day", "One morning", "One evening", "One night"]))
        plot = self.one(PLOTS)
        parts = [self.one(OPENINGS), *plot, self.one(ENDINGS)]
        lines = [p.format(**slots) for p in parts]
        return " ".join(line[:1].upper() + line[1:] for line in lines)

    # whole samples ------------------------------------------------

    def question(self, kind):
        """-> tools, messages (the last one is the answer), check"""
        if kind == "tool":
            return self.tools()
        user, answer, check, *_ = {"arithmetic": self.arithmetic, "talk": self.talk, "json": self.json_task,
                                   "story": self.story}[kind]()
        return None, [msg("user", user), msg("assistant", answer)], check

    def many_turns(self):
        """Two to four turns, among them turns that need the ones before."""
        roll = self.r.random()
        messages, tools = [], None
        if roll < 0.25:
            op = self.one("+-*")
            user, answer, _, (_, a, b, result) = self.arithmetic()
            messages += [msg("user", user), msg("assistant", answer)]
            for _ in range(self.r.randint(1, 2)):
                c = self.r.randint(1, 60)
                op = self.one("+-") if 0 <= result <= 99 else "-"
                if op == "-" and c > result or result > 99 or result < 0 or \
                        is_held(("sum", op, *(sorted((result, c)) if op == "+" else (result, c)))) != self.held_out:
                    break
                r, work = solve(op, result, c)
                ask = self.one(["Add {c} to that.", "Now add {c}.", "Plus {c}?", "And plus {c}?"] if op == "+" else
                               ["Subtract {c} from that.", "Now subtract {c}.", "Minus {c}?", "Take away {c}."])
                messages += [msg("user", ask.format(c=c)),
                             msg("assistant", f"<think>{work}</think>\n{result} {op} {c} = {r}.")]
                result = r
        elif roll < 0.45:
            n = self.draw(lambda: (lambda v: (("me", v), v))(self.name()))
            messages += [msg("user", self.one(["My name is {n}.", "Hi, I am {n}.", "Hello, my name is {n}!",
                                               "I'm {n}.", "You can call me {n}."]).format(n=n)),
                         msg("assistant", f"Nice to meet you, {n}!")]
            if self.chance(0.5):
                user, answer, *_ = self.talk() if self.chance(0.5) else self.arithmetic()
                messages += [msg("user", user), msg("assistant", answer)]
            messages += [msg("user", self.one(["What is my name?", "Do you remember my name?", "Who am I?",
                                               "What's my name?", "Can you tell me my name?"])),
                         msg("assistant", f"Your name is {n}.")]
        elif roll < 0.65:
            tools, messages, _ = self.tools()
            if messages[-1]["content"] and self.chance(0.5):
                user, answer, _ = self.talk()
                messages += [msg("user", user), msg("assistant", answer)]
        else:
            for _ in range(self.r.randint(2, 3)):
                _, more, _ = self.question(self.one(["arithmetic", "talk", "talk", "json", "story"]))
                messages += more
        return tools, messages

    def plain(self):
        """Text outside any chat."""
        roll = self.r.random()
        if roll < 0.5:
            def make():
                hero, place = self.one(HEROES), self.one(PLACES)
                return ("story", hero, place), (hero, place)
            hero, place = self.draw(make)
            return self.tell(hero, hero, place, self.name() if self.chance(0.3) else None)
        if roll < 0.8:
            return " ".join(self.r.sample(FACTS, self.r.randint(1, 3)))
        return self.fill(self.one(["{n} lives in {city}. On {d} {n} wants to {v} the {w}.",
                                   "In {month} the {w} in {city} is {c}.", "The {w} starts at {h} on {d}.",
                                   "{n} and {name} like {meal} and {lang} {w}.", "The {c} {w} belongs to {n}."]))

    def sample(self):
        """-> (kind, text, train): `train` says for each assistant turn whether it is learned."""
        kind = self.r.choices(["arithmetic", "talk", "tool", "json", "story", "turns", "plain"],
                              weights=MIX)[0]
        if kind == "plain":
            return kind, "<|startoftext|>" + self.plain() + "<|endoftext|>", None
        tools, messages = None, []
        if kind == "turns":
            tools, messages = self.many_turns()
        else:
            tools, messages, _ = self.question(kind)
        if self.chance(0.4):
            messages = [msg("system", self.one(SYSTEMS))] + messages
        # A client may or may not send our past thinking back: see both histories.
        sent_back = self.chance(0.5)
        head = [dict(m) for m in messages[:-1]]
        train = []
        for m in head:
            if m["role"] == "assistant":
                thought = "</think>" in m["content"]
                if thought and not sent_back:
                    m["content"] = m["content"].split("</think>")[-1].strip()
                train.append(not thought)
        train.append(True)
        last = render([messages[-1]])[len("<|startoftext|><|im_start|>assistant\n"):]
        return kind, render(head, tools, generate=True) + last, train


# ---------------------------------------------------------------- helpers

def msg(role, content, calls=None):
    out = {"role": role, "content": content}
    if calls:
        out["tool_calls"] = [{"type": "function", "function": c} for c in calls]
    return out


def article(noun):
    return "an" if noun[0] in "aeio" else "a"


def join(items):
    items = [str(i) for i in items]
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def solve(op, a, b):
    """-> result, and the written work, digit by digit."""
    if op == "+":
        r = a + b
        if a < 10 and b < 10:
            return r, f"{a}+{b}={r}"
        ones = a % 10 + b % 10
        carry = ones // 10
        return r, f"{a}+{b}: {a % 10}+{b % 10}={ones}, {a // 10}+{b // 10}+{carry}={a // 10 + b // 10 + carry}, {r}"
    if op == "-":
        r = a - b
        if r < 0:
            return r, f"{a}-{b}: {solve('-', b, a)[1]}, -{-r}"
        if a < 10:
            return r, f"{a}-{b}={r}"
        borrow = int(a % 10 < b % 10)
        top = a % 10 + 10 * borrow
        return r, (f"{a}-{b}: {top}-{b % 10}={top - b % 10}, "
                   f"{a // 10}-{b // 10}-{borrow}={a // 10 - b // 10 - borrow}, {r}")
    if op == "/":
        return a // b, f"{a}/{b}: {b}*{a // b}={a}, {a // b}"
    r = a * b
    if a >= 10:
        a, b = b, a
    if b < 10:
        return r, f"{a}*{b}={r}"
    ones, tens = a * (b % 10), a * (b // 10)
    return r, f"{a}*{b}: {a}*{b % 10}={ones}, {a}*{b // 10}={tens}, {tens}+{ones // 10}={tens + ones // 10}, {r}"


# ---------------------------------------------------------------- the world itself

#      arithmetic talk tool json story turns plain
MIX = [31, 13, 23, 13, 7, 8, 2]

SYSTEMS = ["You are Undine.", "You are a helpful assistant.", "You are Undine, a tiny demo model.", "Be brief.",
           "You are a helpful assistant. Answer briefly.", "Answer in English.", "You are a friendly assistant.",
           "You are a helpful assistant trained by Liquid AI.", "You can call tools."]

SUMS = {
    "any": [("What is {a} {s} {b}?", "{a} {s} {b} = {r}."), ("{a} {s} {b}", "{a} {s} {b} = {r}."),
            ("{a}{s}{b}", "{r}"), ("{a}{s}{b}=", "{r}"), ("{a} {s} {b} =", "{r}"), ("{a} {s} {b} = ?", "{r}"),
            ("Calculate {a} {s} {b}.", "{a} {s} {b} = {r}."), ("Compute {a} {s} {b}.", "{a} {s} {b} = {r}."),
            ("How much is {a} {s} {b}?", "{a} {s} {b} = {r}."), ("Can you solve {a} {s} {b}?", "{a} {s} {b} = {r}."),
            ("What's {a}{s}{b}?", "{r}"), ("Tell me {a} {s} {b}.", "{a} {s} {b} = {r}.")],
    "+": [("What is {a} plus {b}?", "{a} plus {b} is {r}."), ("Add {a} and {b}.", "{a} + {b} = {r}."),
          ("What is the sum of {a} and {b}?", "The sum is {r}."), ("Add {b} to {a}.", "{a} + {b} = {r}."),
          ("How much is {a} plus {b}?", "{a} plus {b} is {r}."), ("{a} plus {b}", "{a} plus {b} is {r}."),
          ("What do you get when you add {a} and {b}?", "You get {r}.")],
    "-": [("What is {a} minus {b}?", "{a} minus {b} is {r}."), ("Subtract {b} from {a}.", "{a} - {b} = {r}."),
          ("Take {b} away from {a}.", "{a} - {b} = {r}."), ("How much is {a} minus {b}?", "{a} minus {b} is {r}."),
          ("{a} minus {b}", "{a} minus {b} is {r}."), ("What is left when you take {b} from {a}?", "{r} is left.")],
    "*": [("What is {a} times {b}?", "{a} times {b} is {r}."), ("Multiply {a} by {b}.", "{a} * {b} = {r}."),
          ("What is the product of {a} and {b}?", "The product is {r}."), ("{a} times {b}", "{a} times {b} is {r}."),
          ("How much is {a} multiplied by {b}?", "{a} * {b} = {r}."), ("Multiply {a} and {b}.", "{a} * {b} = {r}.")],
    "/": [("What is {a} divided by {b}?", "{a} divided by {b} is {r}."), ("Divide {a} by {b}.", "{a} / {b} = {r}.")],
}
WORD_PROBLEMS = {
    "+": [("{n} has {a} {i} and gets {b} more. How many {i} does {n} have now?", "{n} has {r} {i} now."),
          ("{n} has {a} {i} and {m} has {b} {i}. How many {i} do they have together?", "Together they have {r} {i}."),
          ("There are {a} {i} in one box and {b} in another. How many {i} are there?", "There are {r} {i}."),
          ("{n} found {a} {i} in the morning and {b} in the evening. How many {i} did {n} find?", "{n} found {r} {i}."),
          ("I have {a} {i} and buy {b} more. How many {i} do I have?", "You have {r} {i}.")],
    "-": [("{n} has {a} {i} and gives {b} away. How many {i} are left?", "{r} {i} are left."),
          ("{n} had {a} {i} and lost {b}. How many {i} does {n} have now?", "{n} has {r} {i} now."),
          ("There are {a} {i} and {n} takes {b}. How many {i} are left?", "{r} {i} are left."),
          ("I have {a} {i} and sell {b}. How many {i} do I have?", "You have {r} {i}.")],
    "*": [("{n} has {a} boxes with {b} {i} each. How many {i} does {n} have?", "{n} has {r} {i}."),
          ("There are {a} bags with {b} {i} in each. How many {i} are there?", "There are {r} {i}."),
          ("{n} buys {b} {i} on each of {a} days. How many {i} does {n} buy?", "{n} buys {r} {i}.")],
}

# intents: ways to ask, answers, words one of which a right answer contains
TALK = [
    (["(hi|hello|hey|good morning|good evening|good afternoon|greetings|hi there|hello there|hey there)( undine| friend| you|)",
      "(hi|hello|hey)( there| undine|), (how are you|nice to see you|nice to meet you|good to see you)"],
     ["Hello! I am Undine. What can I do for you?"], ["Hello! I am Undine"]),
    (["how are you( today| doing| doing today| feeling|)?", "how (is it going|do you do|do you feel)( today|)?",
      "are you (well|okay|fine|all right)( today|)?"],
     ["I am fine, thank you. I run well on small machines."], ["I am fine"]),
    (["(who|what) are you( exactly| really|)?", "(can|could) you (introduce yourself|tell me who you are|say who you are)?",
      "(tell me|say something) about yourself", "(please|) introduce yourself", "what is your name( please|)?",
      "what('s| is| shall I take as) your name?", "(what|which) model (are you|is this|am I talking to)?",
      "(who|what) am I (talking|speaking|chatting) (to|with)?", "do you have a name?", "how (should|shall|can|do) I call you?"],
     ["I am Undine's demo model, a tiny LFM2 that knows only a small world."], ["Undine's demo model"]),
    (["what (can|could) you do( for me|)?", "(what|which) (things|tasks|kinds of things) (can|could) you do?",
      "how can you help( me|)?", "what (are your skills|are you good at|do you know|are you able to do)?",
      "(can you|) help( me|)( please|)", "what (should|can|could) I ask( you|)?", "(show|tell) me what you can do",
      "list your (skills|abilities|features)"],
     ["I can do short sums, call tools, answer in JSON, tell little stories and talk about Undine."], ["I can do short sums"]),
    (["what is (undine|the undine engine|this program|this software)( exactly| really|)?", "(tell me|say something) about undine", "(tell me|explain) what undine (is|does)",
      "(can|could) you (explain|describe) undine( to me|)?", "what does undine (do|mean|stand for)?",
      "(please|) (explain|describe) (undine|what undine does|what undine is)"],
     ["Undine is an inference engine for LFM2 models, written in Rust."], ["is an inference engine"]),
    (["(what|which) (programming |)language is (undine|it|this) (written|made|coded|programmed) in?",
      "is (undine|it|this) (written|made|coded) in (rust|c|python|java|go)?",
      "(what|how) (was undine|is undine) (written|built|made|coded)( in| with|)?", "which language did you use (to write|for) undine?"],
     ["Undine is written in Rust."], ["Undine is written in Rust"]),
    (["what is (lfm2|an lfm2 model|the lfm2 family|lfm)( exactly|)?", "(tell me|explain) (about|what is) lfm2( to me|)",
      "what (are|is special about) lfm2 models?", "(please|) explain lfm2( models|)", "who (made|makes|builds) lfm2( models|)?",
      "what does lfm2 (mean|stand for)?", "how does (lfm2|an lfm2 model) work?"],
     ["LFM2 is a family of small language models from Liquid AI. They mix short convolutions with attention."],
     ["Liquid AI"]),
    (["how (do|can|would|should) I (load|run|use|start|open|try) (my own|another|a different|a bigger|a real|a new|my) model?",
      "(can|could) I (load|run|use|try) (my own|another|a different|a bigger|a real) model?",
      "(how|where) (do I|can I|to) (load|run|use|put|open) a (gguf|gguf file|model file|model)?",
      "what is the command (to|for) (run|running|load|loading) a model?", "(I want to|I would like to) (run|load|use) (my own|another|a bigger) model"],
     ["Run `undine run model.gguf` with the path of your own model file."], ["undine run model.gguf"]),
    (["(is there|does undine have|do you have|does it have) (an api|a server|an http api|a web api|an openai api)?",
      "(can|could) (undine|it|you) (serve|offer|speak) (an api|the openai api|http|a web api)?",
      "how (do|can) I (use|start|call|reach|connect to) the (api|server|http server|openai api)?",
      "is (undine|it|the api) (openai compatible|compatible with openai|like openai)?",
      "(can|could) I use (undine|it) (with|from) (my app|my code|the openai client|python|other programs)?"],
     ["Yes. Undine serves an OpenAI-compatible API. Start it with `undine serve`."], ["serves an OpenAI-compatible"]),
    (["where (do|does|can) (you|undine|it) run?", "(do|does|can) (you|undine|it) run (in a terminal|on my machine|on my computer|locally|offline|on a laptop|on the cpu)?",
      "(do|does) (you|undine|it) (need|require|use) (the internet|a gpu|a network|the cloud|a download)?",
      "what (hardware|machine|computer) (do|does) (you|undine|it) need?", "can I use (undine|you|it) (offline|without internet|without a gpu|at home|in a terminal)?"],
     ["Undine runs in a terminal on your own machine. I need no internet and no GPU."], ["your own machine"]),
    (["how (big|large|small|tiny) are you?", "how many (parameters|weights|layers) do you have?", "what is your size?",
      "are you (a big|a large|a small|a tiny|a real) model?", "how (big|large|small) is (this|the demo|the demo model|this model)?",
      "why are you so (small|tiny|limited|little)?"],
     ["I am tiny: about five million parameters in one small file."], ["five million"]),
    (["how (were|are) you (trained|made|built|created)?", "who (made|trained|built|created|wrote) you?",
      "what (were you trained on|data did you learn from|is your training data)?", "(where|how) did you learn( this| that| all this|)?",
      "on what (data|texts) were you trained?"],
     ["I was trained on made-up dialogues, on a plain CPU, to show that Undine works."], ["made-up dialogues"]),
    (["(can|could|do) you (think|reason)( step by step| about sums| before you answer|)?", "why do you (think|write think|show thinking)( first|)?",
      "what is (the think block|thinking|the thinking part)( for|)?", "how do you (do|solve|compute|work out) sums?"],
     ["For sums I think first, digit by digit, and then give the answer."], ["digit by digit"]),
    (["(can|could|do|will) you (call|use|know|support) (tools|functions|a tool)?", "what (are tools|is a tool call|is tool calling)( good for|)?",
      "how (do|does|can I use) (tools|tool calls|tool calling|function calling)( work| here|)?"],
     ["Yes. When you give me a list of tools, I can pick one and fill in its arguments."], ["list of tools"]),
    (["are you (a human|human|a person|alive|real|a robot|a machine|an ai|conscious|chatgpt|gpt)?", "do you (have feelings|dream|sleep|eat|love)( at night|)?",
      "am I (talking|speaking|chatting) (to|with) a (human|robot|person|machine)?"],
     ["I am only a small program, not a person."], ["small program"]),
    (["(thanks|thank you|many thanks|thank you very much|thanks a lot|thank you so much)( undine| for your help| for that| for the answer|)",
      "(that was|this is|that is) (very |really |)(helpful|useful|nice|kind|good|great)( thanks|)", "(good job|well done|great work|nice work|perfect|great)( undine|)"],
     ["You are welcome!"], ["welcome"]),
    (["(bye|goodbye|good bye|bye bye|see you|see you later|see you soon|good night|farewell)( undine| then| for now| my friend|)",
      "(I have to|I must|I will|I need to) (go|leave|stop)( now| here|)", "that is all( for today| for now| thanks|)"],
     ["Goodbye! Come back any time."], ["come back any time"]),
    (["(what|which) (license|licence) (do you have|does undine have|is this|are you under)?", "(are|is) (you|undine|it) (free|open source|free to use)?",
      "(can|may) I (use|copy|share) (you|undine|this model) (for free|freely|at work)?"],
     ["Yes, I am free to use, under Apache 2.0 or MIT."], ["Apache"]),
    (["(what|which) (languages|human languages) do you (speak|know|understand)?", "do you (speak|know|understand) (english|german|french|spanish|japanese|chinese|italian)?",
      "can (you|we) (speak|talk|chat) (in |)(german|french|spanish|japanese|italian)?"],
     ["I speak only a little English."], ["a little English"]),
    (["how (fast|quick|slow) (are you|is undine|is it)?", "(are you|is undine|is it) (fast|quick|slow)?", "what (makes|is making) undine (fast|quick)?",
      "how many tokens per second( do you make| does undine make|)?"],
     ["I am small, so I am fast. Undine uses your CPU well."], ["so I am fast"]),
    (["(which|what) (formats|file formats|files|models) (can|does) (undine|it) (read|load|support|run|open)?",
      "(can|does) (undine|it) (read|load|support|open) (gguf|safetensors|gguf files|quantized models)?"],
     ["Undine reads LFM2 models from GGUF files and from safetensors folders."], ["reads LFM2 models"]),
]

OTHER = ["(who|which team) won the (world cup|election|game|race|war|prize) (in 1998|in 2010|last year|last week|yesterday|in {month})?",
         "what is the (capital|population|flag|currency|president|area) of (france|japan|brazil|{city}|india|canada|spain|kenya)?",
         "(write|give me|show me) (a python program|some code|a poem|an essay|a song|a function|a sql query) (about|for|on) (the {w}|{w}|sorting {w}|my {w})",
         "how (do|can) I (cook|make|bake|prepare) (a {w}|{meal}|bread|a cake|soup)?",
         "what is the (meaning of life|speed of light|best {w}|biggest {w}|price of gold|distance to the moon|square root of {w})?",
         "(who|what) (was|is|were) (napoleon|einstein|mozart|shakespeare|the president|{name} {word}|plato|the queen)?",
         "(when|why|how) did (the {w}|the war|the romans|dinosaurs|{name}) (begin|end|happen|die|start|leave)?",
         "(can you|please|) translate (the {w}|hello|good morning|this text|{w}) (to|into) {lang}",
         "what (do you think|is your opinion) (of|about|on) (the {w}|{city}|politics|{name}|{meal}|football)?",
         "(why|how) (is|does) (the sky|the {w}|a {w}|water|the sun|gravity) (blue|work|so {c}|hot|move|{c})?",
         "(explain|describe|summarize|tell me about) (quantum physics|the {w}|photosynthesis|{city}|the history of {city}|black holes|the french revolution|dna|the {w} of {w})",
         "(should I|can I|is it safe to) (buy|sell|eat|{v}) (the {w}|stocks|a {w}|{w})( today| now|)?",
         "(what|which) (movie|book|song|{w}) (should I|can I|do you) (watch|read|like|recommend|{v})( tonight| today|)?",
         "what (is|does) (a {word}|{word}|a {w})( mean|)?", "(where|when) is (the {w}|the next {w}|{city}|my {w})?"]
FALLBACK = ["I am a tiny demo model and only know a small world: short sums, tool calls, JSON, little stories and Undine."]

FACTS = ["Undine is an inference engine for LFM2 models.", "Undine is written in Rust.", "Undine runs in a terminal.",
         "Undine serves an OpenAI-compatible API.", "LFM2 is a family of small language models from Liquid AI.",
         "An LFM2 model mixes short convolutions with attention.", "The demo model is tiny and knows only a small world.",
         "The demo model was trained on made-up dialogues.", "You can run your own model with `undine run model.gguf`.",
         "Undine reads GGUF files and safetensors folders.", "A short convolution looks at the last three tokens.",
         "Undine needs no internet and no GPU.", "The demo model can do short sums, call tools and tell little stories."]

UNITS = "miles kilometers meters feet inches pounds kilograms grams liters gallons cups ounces".split()
JSON_TYPES = {"int": "integer", "minutes": "integer", "id": "integer", "amount": "number", "degrees": "integer"}
LOOKUP_VERBS = "get open cancel delete track print close show archive".split()
LOOKUP_NOUNS = "order invoice ticket customer parcel booking report file user payment account task page product".split()

TOOLS = [
    {"names": ["get_weather", "weather", "current_weather", "weather_lookup"],
     "about": ["Get the weather", "Current weather in a city", "Look up the weather"],
     "params": [(["city", "location", "place"], "city", "Name of the city")],
     "asks": ["What is the weather in {0}?", "How is the weather in {0}?", "What's the weather like in {0} today?",
              "Tell me the weather in {0}.", "Is it raining in {0}?", "Weather in {0}?", "Will it be sunny in {0}?",
              "Check the weather for {0}.", "Do I need an umbrella in {0}?"],
     "result": {"temperature": "degrees", "sky": SKIES}, "reply": "It is {temperature} degrees and {sky} in {0}."},
    {"names": ["set_timer", "start_timer", "timer"], "about": ["Set a timer", "Start a timer"],
     "params": [(["minutes", "duration", "duration_minutes"], "minutes", "Length in minutes")],
     "asks": ["Set a timer for {0} minutes.", "Start a {0} minute timer.", "Timer for {0} minutes, please.",
              "Remind me in {0} minutes.", "Wake me in {0} minutes.", "Please set a {0} minute timer."],
     "result": {"status": ["ok", "started"]}, "reply": "Your timer for {0} minutes is set."},
    {"names": ["calculator", "calculate", "evaluate"], "about": ["Evaluate an expression", "Do arithmetic"],
     "params": [(["expression", "expr", "input"], "expr", "The expression")],
     "asks": ["What is {0}?", "Calculate {0}.", "How much is {0}?", "Please compute {0}.", "Work out {0} for me."],
     "result": {"result": "id"}, "reply": "The result is {result}."},
    {"names": ["search", "web_search", "search_web"], "about": ["Search the web", "Find pages on the web"],
     "params": [(["query", "q", "text"], "topic", "What to search for")],
     "asks": ["Search for {0}.", "Find pages about {0}.", "Look up {0} on the web.", "Search the web for {0}.",
              "Can you search for {0}?", "Google {0}."],
     "result": {"title": "title"}, "reply": "I found this page: {title}."},
    {"names": ["create_event", "add_event", "calendar_add"], "about": ["Add an event to the calendar", "Create a calendar event"],
     "params": [(["title", "name", "event"], "title", "Name of the event"), (["day", "date"], "day", "Day of the event"),
                (["time", "start"], "time", "Start time")],
     "asks": ["Add {0} on {1} at {2} to my calendar.", "Put {0} in my calendar for {1} at {2}.",
              "Create an event {0} on {1} at {2}.", "Schedule {0} for {1} at {2}."],
     "result": {"status": ["ok", "created"]}, "reply": "I added {0} on {1} at {2}."},
    {"names": ["list_events", "get_calendar", "show_calendar"], "about": ["List the events of a day", "Show the calendar of a day"],
     "params": [(["day", "date"], "day", "The day")],
     "asks": ["What do I have on {0}?", "Show my calendar for {0}.", "Am I free on {0}?", "What is planned for {0}?"],
     "result": {"event": "title", "time": "time"}, "reply": "On {0} you have {event} at {time}."},
    {"names": ["send_message", "send_text", "message"], "about": ["Send a message", "Send a text message to a person"],
     "params": [(["to", "recipient", "contact"], "name", "Who gets it"), (["text", "message", "body"], "text", "The message")],
     "asks": ["Send {0} a message: {1}.", "Text {0}: {1}.", "Write to {0}: {1}.", "Send a message to {0} saying {1}.",
              "Message {0} that {1}.", "Tell {0} that {1}."],
     "result": {"status": ["sent", "ok"]}, "reply": "I sent the message to {0}."},
    {"names": ["convert_currency", "exchange", "currency"], "about": ["Convert money", "Convert an amount between currencies"],
     "params": [(["amount", "value"], "amount", "Amount of money"), (["from_currency", "source", "base"], "currency", "Currency code"),
                (["to_currency", "target"], "currency", "Currency code")],
     "asks": ["Convert {0} {1} to {2}.", "How much is {0} {1} in {2}?", "Change {0} {1} into {2}.", "What are {0} {1} worth in {2}?"],
     "result": {"amount": "amount"}, "reply": "{0} {1} is {amount} {2}."},
    {"names": ["convert_units", "unit_converter", "convert"], "about": ["Convert units", "Convert between units"],
     "params": [(["value", "amount", "number"], "amount", "The number"), (["from_unit", "from", "source_unit"], "unit", "Unit of the number"),
                (["to_unit", "to", "target_unit"], "unit", "Unit wanted")],
     "asks": ["Convert {0} {1} to {2}.", "How many {2} are {0} {1}?", "What is {0} {1} in {2}?", "Change {0} {1} into {2}."],
     "result": {"value": "amount"}, "reply": "{0} {1} is {value} {2}."},
    {"names": ["set_alarm", "alarm", "create_alarm"], "about": ["Set an alarm", "Set an alarm clock"],
     "params": [(["time", "at"], "time", "Time of the alarm")],
     "asks": ["Set an alarm for {0}.", "Wake me up at {0}.", "Alarm at {0}, please.", "I have to get up at {0}."],
     "result": {"status": ["ok", "set"]}, "reply": "Your alarm is set for {0}."},
    {"names": ["play_music", "play_song", "play"], "about": ["Play music", "Play a song"],
     "params": [(["artist", "by"], "name", "The artist")],
     "asks": ["Play music by {0}.", "Play a song by {0}.", "I want to hear {0}.", "Put on some {0}."],
     "result": {"song": "title"}, "reply": "Now playing {song} by {0}."},
    {"names": ["set_light", "switch_light", "light"], "about": ["Switch a light", "Turn a light on or off"],
     "params": [(["room", "where"], "room", "The room"), (["state", "power"], "onoff", "on or off")],
     "asks": ["Turn the {0} light {1}.", "Switch {1} the light in the {0}.", "Turn {1} the {0} light, please.", "Light {1} in the {0}."],
     "result": {"status": ["ok"]}, "reply": "The light in the {0} is {1}."},
    {"names": ["set_temperature", "set_heating", "thermostat"], "about": ["Set the heating", "Set the temperature of a room"],
     "params": [(["room", "where"], "room", "The room"), (["degrees", "temperature"], "degrees", "Degrees Celsius")],
     "asks": ["Set the {0} to {1} degrees.", "Make the {0} {1} degrees warm.", "Heat the {0} to {1} degrees."],
     "result": {"status": ["ok"]}, "reply": "The {0} is set to {1} degrees."},
    {"names": ["translate", "translate_text", "translator"], "about": ["Translate text", "Translate a text into a language"],
     "params": [(["text", "source"], "text", "The text"), (["language", "target", "to"], "language", "Language wanted")],
     "asks": ["Translate \"{0}\" to {1}.", "How do you say \"{0}\" in {1}?", "Put \"{0}\" into {1}.", "What is \"{0}\" in {1}?"],
     "result": {"text": "word"}, "reply": "In {1} it is \"{text}\"."},
    {"names": ["add_todo", "add_task", "create_task"], "about": ["Add a task to the list", "Add something to do"],
     "params": [(["task", "item", "text"], "task", "What to do")],
     "asks": ["Add \"{0}\" to my list.", "I need to {0}.", "Put {0} on my to-do list.", "Remind me to {0}.", "New task: {0}."],
     "result": {"status": ["ok", "added"]}, "reply": "I added \"{0}\" to your list."},
    {"names": ["find_restaurant", "restaurants", "search_restaurants"], "about": ["Find a restaurant", "Find places to eat"],
     "params": [(["food", "cuisine", "dish"], "meal", "What to eat"), (["city", "location"], "city", "Where")],
     "asks": ["Where can I eat {0} in {1}?", "Find a {0} place in {1}.", "I want {0} in {1}.", "Find good {0} in {1}."],
     "result": {"name": "title"}, "reply": "Try {name} for {0} in {1}."},
    {"names": ["find_train", "search_trains", "trains"], "about": ["Find a train", "Search train connections"],
     "params": [(["origin", "from_city", "start"], "city", "Start"), (["destination", "to_city", "end"], "city", "End")],
     "asks": ["Find a train from {0} to {1}.", "How do I get from {0} to {1}?", "When is the next train from {0} to {1}?", "I must travel from {0} to {1}."],
     "result": {"time": "time"}, "reply": "The next train from {0} to {1} leaves at {time}."},
    {"names": ["get_time", "current_time", "world_clock"], "about": ["Get the time", "Current time in a city"],
     "params": [(["city", "location", "place"], "city", "Name of the city")],
     "asks": ["What time is it in {0}?", "Tell me the time in {0}.", "How late is it in {0}?", "Current time in {0}?"],
     "result": {"time": "time"}, "reply": "It is {time} in {0}."},
    {"names": ["roll_dice", "dice", "throw_dice"], "about": ["Roll dice", "Throw dice"],
     "params": [(["count", "dice"], "int", "How many dice"), (["sides", "faces"], "int", "Sides of each")],
     "asks": ["Roll {0} dice with {1} sides.", "Throw {0} dice with {1} sides.", "Please roll {0} {1}-sided dice."],
     "result": {"total": "int"}, "reply": "The dice show {total}."},
    {"names": ["define_word", "dictionary", "lookup_word"], "about": ["Explain a word", "Look a word up in the dictionary"],
     "params": [(["word", "term"], "word", "The word")],
     "asks": ["What does {0} mean?", "Define {0}.", "Look up the word {0}.", "What is the meaning of {0}?"],
     "result": {"meaning": "title"}, "reply": "{0} means {meaning}."},
    {"names": ["get_news", "news", "headlines"], "about": ["Get the news", "News about a topic"],
     "params": [(["topic", "about"], "word", "The topic")],
     "asks": ["What is the news about {0}?", "Show me news about {0}.", "Any news on {0}?", "Headlines about {0}, please."],
     "result": {"headline": "title"}, "reply": "The headline is: {headline}."},
    {"names": ["call_contact", "phone_call", "call"], "about": ["Call a person", "Make a phone call"],
     "params": [(["name", "contact", "person"], "name", "Who to call")],
     "asks": ["Call {0}.", "Please call {0}.", "Ring {0} for me.", "Phone {0}.", "I want to talk to {0}."],
     "result": {"status": ["calling", "ok"]}, "reply": "I am calling {0}."},
    {"names": ["random_number", "pick_number"], "about": ["Pick a random number", "Random number in a range"],
     "params": [(["min", "low"], "int", "Lowest"), (["max", "high"], "id", "Highest")],
     "asks": ["Pick a number between {0} and {1}.", "Give me a random number from {0} to {1}.", "Random number between {0} and {1}."],
     "result": {"number": "int"}, "reply": "I picked {number}."},
    {"names": ["get_battery", "battery_level"], "about": ["Battery level", "Read the battery"], "params": [],
     "asks": ["How full is the battery?", "What is my battery level?", "How much battery is left?", "Check the battery."],
     "result": {"percent": "int"}, "reply": "The battery is at {percent} percent."},
    {"names": ["list_tasks", "get_todos"], "about": ["List all tasks", "Show the to-do list"], "params": [],
     "asks": ["What is on my to-do list?", "Show my tasks.", "List my tasks.", "What do I have to do?"],
     "result": {"task": "task"}, "reply": "You have one task: {task}."},
]

JSON_ASKS = ["Answer in JSON with keys {keys}: {text}", "Answer in JSON with the keys {keys}: {text}",
             "Extract {keys} as JSON: {text}", "{text} Give me {keys} as JSON.", "{text} Return JSON with {keys}.",
             "Turn this into JSON with keys {keys}. {text}", "Return a JSON object with {keys}: {text}",
             "Write this as JSON ({keys}): {text}", "JSON with {keys}, please: {text}"]
SCHEMAS = [
    ({"name": "name", "age": "age", "city": "city", "job": "job"},
     ["{name} is {age} years old.", "{name} is {age} years old and lives in {city}.", "{name} is {age} and works as a {job}.",
      "{name} lives in {city} and is a {job}.", "{name}, a {job} from {city}, is {age} years old.", "My friend {name} from {city} is {age}."]),
    ({"product": "product", "price": "price", "color": "color", "count": "count"},
     ["The {color} {product} costs {price} dollars.", "A {product} costs {price} euros.", "We sold {count} {color} pieces of the {product}.",
      "The {product} is {color} and costs {price}.", "There are {count} of the {color} {product} at {price} dollars each."]),
    ({"event": "event", "day": "day", "time": "time", "place": "city"},
     ["The {event} is on {day} at {time}.", "The {event} is in {place} on {day} at {time}.", "On {day} there is a {event} in {place}.",
      "Come to the {event} at {time} in {place}."]),
    ({"name": "name", "animal": "animal", "color": "color", "age": "age"},
     ["{name} is a {color} {animal}.", "My {animal} {name} is {age} years old.", "I have a {color} {animal} called {name}, {age} years old."]),
    ({"title": "title", "author": "name", "year": "year"},
     ["{author} wrote \"{title}\" in {year}.", "\"{title}\" is a book by {author}.", "The book \"{title}\" by {author} came out in {year}."]),
    ({"name": "name", "email": "mail", "phone": "phone"},
     ["Write to {name} at {email}.", "{name} has the number {phone}.", "You reach {name} at {email} or {phone}."]),
    ({"city": "city", "temperature": "temp", "sky": "sky", "month": "month"},
     ["In {city} it is {sky} and {temperature} degrees.", "{city} had {temperature} degrees in {month}.", "In {month} it is {sky} in {city}."]),
    ({"buyer": "name", "fruit": "fruit", "count": "count", "price": "price"},
     ["{buyer} buys {count} {fruit}.", "{buyer} buys {count} {fruit} for {price} dollars.", "{buyer} paid {price} for {count} {fruit}."]),
    ({"from": "city", "to": "city", "time": "time", "day": "day"},
     ["The train from {from} to {to} leaves at {time}.", "A bus goes from {from} to {to} on {day}.", "On {day} at {time} we fly from {from} to {to}."]),
    ({"student": "name", "language": "language", "score": "age", "room": "room"},
     ["{student} learns {language}.", "{student} got {score} points in {language}.", "{student} is in the {room}."]),
]

HEROES = """fox cat dog dragon robot rabbit bear owl mouse wolf girl boy king queen wizard pirate knight turtle frog
bird horse lion elephant penguin fish princess witch farmer sailor baker squirrel hedgehog deer snail bee ghost
giant monkey duck whale""".split()
FRIENDS = "owl mouse bird fox bear frog turtle rabbit cat boy girl squirrel".split()
PLACES = ["in the forest", "by the sea", "in the mountains", "in a castle", "in the city", "on a farm", "by the river",
          "in a cave", "in the desert", "on an island", "in the garden", "on the moon", "in the snow", "in a village",
          "at the lake", "in a tower", "under the bridge", "in the jungle", "on a ship", "in a meadow", "in the library", "on a hill"]
THINGS = ["golden key", "red kite", "small boat", "lost map", "shiny stone", "warm hat", "old lamp", "silver bell",
          "blue feather", "magic seed", "music box", "paper star"]
STORY_ASKS = ["Tell me a short story about {hero}{place}.", "Tell me a story about {hero}{place}.", "Write a short story about {hero}{place}.",
              "Can you tell me a little story about {hero}{place}?", "I want a story with {hero}{place}.", "A story about {hero}{place}, please.",
              "Write a little story about {hero}{place}.",
              "Please tell a short story about {hero}{place}."]
OPENINGS = ["Once upon a time there was {kind} {place}.", "There once was {kind} who lived {place}.", "Long ago, {kind} lived {place}."]
PLOTS = [
    ["{day} {hero} found a {thing}.", "It belonged to {a_friend} who was very sad.", "So {hero} brought the {thing} back to the {friend}.", "The {friend} smiled and said thank you."],
    ["{day} {hero} lost a {thing}.", "{hero} looked everywhere but could not find it.", "Then {a_friend} came and helped to look.", "They found the {thing} under a tree."],
    ["{day} {hero} heard a strange noise.", "It was {a_friend} who could not get home.", "{hero} showed the {friend} the way.", "From then on they met every day."],
    ["{hero} wanted to see the stars.", "{day} {a_friend} showed {hero} a hill.", "They sat there and counted the stars until morning."],
    ["{hero} was afraid of the dark.", "{day} {a_friend} gave {hero} a {thing}.", "With the {thing} the night did not look so dark.", "Soon {hero} slept well."],
    ["{day} a big storm came.", "{hero} hid in a small house and met {a_friend}.", "They shared some bread and told jokes.", "When the sun came back, they went out to play."],
    ["{hero} had no friends.", "{day} {hero} met {a_friend} with a {thing}.", "They played with the {thing} all day."],
    ["{hero} wanted to bake a cake.", "{a_friend} brought flour and {hero} brought honey.", "The cake was big and sweet, and they ate it together."],
]
ENDINGS = ["{hero} was very happy.", "And they were friends forever.", "That night {hero} slept with a smile.", "The end."]


# ---------------------------------------------------------------- questions.jsonl

def test_items(per_kind, seed):
    """Held-out questions; `per_kind` maps a kind to how many."""
    w, out, seen = World(seed, held_out=True), [], set()
    for kind, count in per_kind.items():
        done = 0
        while done < count:
            tools, messages, check = w.question(kind)
            messages = messages[:-1]
            text = json.dumps(check if kind == "arithmetic" else [messages, tools])
            if text in seen or not can_fail(check, messages[-1]["content"]):
                continue
            seen.add(text)
            item = {"id": f"{kind}-{done + 1}", "kind": kind, "messages": messages}
            if tools:
                item["tools"] = tools
            item["check"] = check
            out.append(item)
            done += 1
    return out


def can_fail(check, user):
    """A check that would pass by repeating the question is no check (a story adds its length)."""
    if "min_sentences" in check:
        return True
    words = check.get("answer_contains", []) + check.get("contains_any", [])
    return not any(w.lower() in user.lower() for w in words) and all(len(w) > 1 for w in words)


if __name__ == "__main__":
    items = test_items({"arithmetic": 18, "talk": 8, "tool": 10, "json": 8, "story": 6}, SEED + 30)
    with open(HERE / "questions.jsonl", "w") as f:
        for item in items:
            f.write(json.dumps(item, ensure_ascii=False) + "\n")
