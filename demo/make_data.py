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

import wide_banks as wide

HERE = Path(__file__).parent
SEED = 20261121
KINDS = ["arithmetic", "talk", "tool", "json", "story", "outside"]

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

ADD = ["{a} + {b}", "what is {a}+{b}?", "what is {a} + {b}", "What's {a} plus {b}?", "calculate {a} + {b}", "calculate {a} plus {b}", "can you add {a} and {b}",
       "can you add {a} and {b}?", "{a}+{b}", "{a}+{b}=?", "{a} + {b} = ?", "add {a} and {b} please", "whats {a}+{b}", "whats {a} plus {b}", "sum of {a} and {b}", "how much is {a} + {b}?",
       "If I have {a} {i} and buy {b} more, how many do I have?", "I have {a} {i} and get {b} more. How many {i}?", "hey, what is {a} + {b}?", "please compute {a}+{b}", "What is {a} and {b} together?",
       "What is {a} + {b}?", "Add {a} and {b}.", "{a}+{b}=", "{a} plus {b}", "Compute {a} + {b}.", "How much is {a} plus {b}?",
       "{n} has {a} {i} and gets {b} more. How many {i} does {n} have now?"]
SUBTRACT = ["{a} - {b}", "what is {a}-{b}?", "what is {a} - {b}", "What's {a} minus {b}?", "calculate {a} - {b}", "calculate {a} minus {b}", "{a}-{b}", "{a}-{b}=?", "{a} - {b} = ?",
            "whats {a} minus {b}", "whats {a}-{b}", "how much is {a} - {b}?", "how much is {a} minus {b}", "take {b} from {a}", "can you subtract {b} from {a}?", "difference of {a} and {b}",
            "If I have {a} {i} and eat {b}, how many are left?", "I had {a} {i} and lost {b}. How many are left?", "please compute {a}-{b}", "What is {a} - {b}?", "Subtract {b} from {a}.", "{a}-{b}=", "{a} minus {b}", "Compute {a} - {b}.",
            "How much is {a} minus {b}?", "{n} has {a} {i} and loses {b}. How many {i} are left?"]
MULTIPLY = ["{a} * {b}", "{a} x {b}", "{a}x{b}", "what is {a}*{b}?", "what is {a} * {b}", "What's {a} times {b}?", "calculate {a} times {b}", "calculate {a} * {b}", "{a}*{b}", "{a}*{b}=?",
            "{a} x {b} = ?", "whats {a} times {b}", "how much is {a} times {b}?", "how much is {a} * {b}", "can you multiply {a} by {b}?", "product of {a} and {b}", "what is {a} x {b}?",
            "If I have {a} bags with {b} {i} each, how many {i} do I have?", "What is {a} * {b}?", "Multiply {a} by {b}.", "{a}*{b}=", "{a} times {b}", "Compute {a} * {b}.",
            "How much is {a} times {b}?", "{n} has {a} boxes with {b} {i} each. How many {i} is that?"]

DIVIDE = ["{a} / {b}", "what is {a} / {b}?", "{a} divided by {b}", "divide {a} by {b}", "how much is {a} divided by {b}?", "{a}/{b}", "calculate {a}/{b}", "what is {a} over {b}"]
PERCENT = ["what is {a}% of {b}?", "{a}% of {b}", "how much is {a} percent of {b}", "{a} percent of {b}?", "calculate {a}% of {b}"]
OTHER_SUMS = ["square root of {a}", "what is the square root of {a}?", "sqrt({a})", "{a}^{b}", "{a} to the power of {b}", "{a} squared", "is {a} prime?", "factorial of {a}", "log of {a}", "sin({a})", "{a} mod {b}",
              "solve x + {a} = {b}", "what is the average of {a} and {b}?", "round {a}.{b}", "what is {a}.{b} + 1.5?", "count to {a}"]
SMALLER = "Try 17 + 25 or 6 * 7."
TOY = "I am a tiny toy model and do not know that."
TRY = "Ask me for a sum like {a} + {b}, a story about a {hero}, or what I can do."
# (questions, answer, words the answer must have)
TALK = [
    (["hello", "hi", "hey", "good morning", "good evening", "hello there", "good afternoon", "hi there", "hey there", "hello undine", "yo", "howdy", "greetings",
      "hi, how are you", "how are you", "how are you doing", "what's up", "whats up", "sup", "how is it going", "nice to meet you", "hello, nice to meet you", "good day",
      "hello again", "hi again", "anyone there", "is anybody home", "hello, anyone there", "are you there", "hey, what's up", "morning", "good evening, undine", "hiya", "heya", "hello hello",
      "how do you do", "are you awake", "hello friend", "hi undine", "hey you", "test", "testing", "hello world", "pleased to meet you"],
     "Hello! I am the Undine demo model, a tiny toy. Ask me for a sum, a story or what I can do.", ["hello"]),
    (["who are you", "what are you", "what is your name", "introduce yourself", "tell me who you are", "what model are you", "what's your name", "your name", "who is this",
      "what is this", "what's this", "are you ChatGPT", "are you GPT-4", "are you Claude", "are you Gemini", "are you a robot", "are you a human", "are you human", "are you real",
      "are you a real person", "are you a bot", "is this a chatbot", "am I talking to a person", "are you an AI", "are you llama", "who am I talking to", "describe yourself",
      "tell me about yourself", "what exactly are you", "do you have a name", "what should I call you", "is this an AI", "which model is this", "what kind of model are you", "what am I talking to"],
     "I am the demo model of Undine, a tiny LFM2 model with five million parameters.", ["demo model", "tiny"]),
    (["who made you", "who created you", "who built you", "who trained you", "where do you come from", "who wrote you", "how were you made", "how were you trained", "who is your creator"],
     "I am part of Undine and was trained from nothing on made-up dialogues.", ["undine", "trained"]),
    (["what is Undine", "what does Undine do", "tell me about Undine", "explain Undine", "describe Undine", "what is this program", "what's undine", "what is undine for",
      "is undine a model", "what does this program do", "what does this tool do", "undine?", "so what is undine"],
     "Undine is an inference engine for LFM2 models. It is written in Rust.", ["inference engine", "rust"]),
    (["what can you do", "how can you help me", "what are you good at", "what do you know", "what should I ask you", "help", "help me", "what can I ask", "what can I ask you",
      "give me some examples", "show me what you can do", "what else can you do", "examples", "what are your skills", "what now", "what should I do", "what can I try", "can you help me",
      "how do I use you", "how does this work", "what do you do", "give me ideas", "I need help", "what are you able to do", "what are your abilities", "do something", "commands",
      "how can I use this", "what can I type", "so what can you do", "are you useful", "are you any good", "are you smart", "what do you want", "show me something", "what works"],
     "I can do small sums, call tools, answer in JSON and tell short stories. Try: What is 17 + 25?", ["sums", "json", "stories"]),
    (["what is LFM2", "tell me about LFM2", "explain LFM2", "what are LFM2 models", "who made LFM2", "what's lfm2", "what does LFM2 mean", "what is LFM", "what is liquid AI", "who is liquid AI"],
     "LFM2 is a family of hybrid models by Liquid AI. Most layers are short convolutions, a few are attention.",
     ["hybrid", "liquid ai"]),
    (["how do I load my own model", "how can I run my model", "how do I use another model", "can you load my file", "how do I run a real model", "how do I use a better model", "how can I get a better model",
      "where can I get bigger models", "how do I get a bigger model", "how do I download a model", "where do I find models", "I want a real model", "is there a better model", "which models can I use",
      "how do I run LFM2", "which models does undine run", "what models are there", "how do I install a model", "can I use a different model", "how do I switch the model", "do you have a bigger brother", "where are the real models"],
     "Give a file or a name to Undine: undine run model.gguf. The list is in undine models.", ["undine run model.gguf"]),
    (["how do I start a server", "how can I serve a model", "is there an API", "how do I use the API", "does undine have an API", "can I use this from Python", "how do I serve this", "start a server"],
     "Start it with undine serve. It speaks the OpenAI API.", ["undine serve", "openai"]),
    (["how do I quit", "how do I exit", "how do I leave", "how do I close this", "quit", "exit", "how to stop", "stop", "how do I get out of here", "how do I end this"],
     "Press Ctrl-D or type /quit to leave.", ["ctrl-d"]),
    (["do you need the internet", "are you online", "is this offline", "do you work offline", "does this run locally", "are you connected to the internet", "is my data sent anywhere", "is this private",
      "can you search the web", "do you have internet access", "where do you run", "are you in the cloud", "do you store my data"],
     "No internet is needed. I run on this computer and nothing leaves it.", ["this computer"]),
    (["thank you", "thanks", "thanks a lot", "many thanks", "thank you very much", "thx", "ty", "thank you so much", "ok thanks", "thanks, that helped", "perfect, thanks", "great, thank you", "cheers",
      "thanks for your help", "much appreciated", "nice, thanks", "thank you undine"], "You are welcome!", ["welcome"]),
    (["cool", "great", "nice", "good job", "great job", "well done", "awesome", "wow", "perfect", "good", "nice one", "amazing", "I like that", "that is right", "correct", "very good", "lovely", "haha", "lol",
      "that is funny", "good work", "you are great", "you are smart", "excellent", "not bad", "I like you", "you are funny", "brilliant", "super"],
     "Thank you! Ask me for a sum or a story.", ["thank you"]),
    (["ok", "okay", "yes", "no", "yeah", "nope", "sure", "fine", "alright", "maybe", "hm", "hmm", "yep", "right", "I see", "got it", "oh", "and", "so", "well", "yes please", "no thanks", "go on", "continue", "more", "next"],
     "Okay. Ask me for a sum like 17 + 25 or a story about a fox.", ["okay"]),
    (["why", "what", "how", "huh", "what do you mean", "I don't understand", "are you sure", "that is wrong", "that's wrong", "you are wrong", "no that's wrong", "wrong", "this makes no sense", "really", "why not",
      "can you say that again", "say that again", "repeat that", "explain", "can you explain that", "who says that", "is that true", "that is not right", "you are stupid", "you are bad", "this is bad", "nonsense", "that was not my question", "how do you know", "tell me more", "who", "where", "when", "try again"],
     "I am only a tiny toy model and often wrong. Ask me for a small sum, a story or JSON.", ["toy"]),
    (["goodbye", "bye", "see you", "good night", "see you later", "bye bye", "see you soon", "cya", "farewell", "goodbye undine", "I have to go", "take care", "until tomorrow", "bye for now", "have a nice day", "that is all"],
     "Goodbye! Come back soon.", ["goodbye"]),
    (["are you big", "how big are you", "how many parameters do you have", "what is your size", "are you a large model", "how large are you", "how small are you", "are you a large language model", "how many parameters", "how many layers do you have", "are you tiny", "why are you so small"],
     "I am very small. I have about five million parameters.", ["five million"]),
    (["which language is Undine written in", "what is Undine written in", "is Undine written in Rust", "is undine open source", "what language is this written in"],
     "Undine is written in Rust.", ["rust"]),
    (["does Undine need a GPU", "do I need a GPU", "can it run on a CPU", "what hardware do I need", "does this need a GPU", "do you use the GPU", "do you run on a CPU"],
     "No GPU is needed. Undine runs on the CPU.", ["cpu"]),
]
# What is typed first, as it is typed: (question, index in TALK).
FIRST = [("hi", 0), ("hello", 0), ("hey", 0), ("hi there", 0), ("hi!", 0), ("hello!", 0), ("hello there", 0), ("good morning", 0), ("hey there", 0), ("hi, I am {name}", 0), ("hi im {name}", 0),
         ("hello, my name is {name}", 0), ("who are you?", 1), ("what are you?", 1), ("what is this?", 1), ("what can you do?", 4), ("help", 4), ("thanks", 10), ("thank you", 10), ("bye", 14),
         ("can you do maths?", 4), ("can you do math", 4), ("can you tell stories", 4), ("do you know stories?", 4), ("can you calculate", 4), ("can you make json", 4), ("can you call tools?", 4)]
BEFORE = ["", "", "", "", "", "", "", "Please: ", "Hey, ", "One question: ", "Tell me, ", "Okay, ", "So, ", "Hi, "]
AFTER = ["?", "", "", "", ".", "!", "??", "!!", " please", " now?", "...", " :)"]

STORIES = ["Tell me a story about a {hero} in the {place}.", "Write a short story about a {hero} in a {place}.",
           "A story about a {hero} and a {place}, please.", "Tell a story with a {hero} in the {place}."]
# About anybody; `{who}` has its article, and may have a word before it.
STORIES_ABOUT = ["tell me a story about {who}", "Tell me a story about {who}.", "story about {who}", "a story about {who}", "write a story about {who}", "Write a {sort} story about {who}.",
                 "tell me a {sort} story about {who}", "can you tell me a story about {who}?", "I want a story about {who}", "I want to hear a story about {who}.", "make up a story about {who}",
                 "please tell a story about {who}", "A {sort} story about {who} please", "do you know a story about {who}?", "Once upon a time there was {who}", "Once there was {who}.", "one about {who}",
                 "give me a story with {who}", "invent a story about {who}", "now a story about {who}", "tell my kids a story about {who}", "write me a {sort} story with {who}", "tell me a tale of {who}", "a tale about {who}", "short story, subject: {who}", "story: {who}", "Can you write a {sort} story about {who}?", "do a story with {who}"]
STORIES_FREE = ["Tell me a story.", "tell me a story", "story", "a story please", "Tell me a {sort} story.", "tell me a {sort} story", "write a story", "Write a {sort} story.", "{sort} story please",
                "can you tell me a story?", "can you tell me a {sort} story?", "Once upon a time", "once upon a time...", "another story", "another one", "one more", "one more story please", "tell me another story", "I want to hear a story",
                "I want a story", "do you know a story?", "make up a story", "story time", "bedtime story", "read me a story", "a {sort} story", "tell me something nice", "write me a {sort} story", "again", "tell us a story"]
PLOTS = [
    "One day {who} went to the {place}. There {the} found a {color} {thing}. {The} took the {thing} home and was very happy.",
    "{Who} lived in the {place}. One day {the} lost a {color} {thing}. A friend came and found it. They played until night.",
    "Once there was {who} in the {place}. Every day {the} looked for a {color} {thing}. At last it was there. {The} slept well that night.",
    "{Who} wanted to see the {place}. On the way {the} met {other}. They found a {color} {thing} and shared it. From then on they were friends.",
    "It was a {weather} day in the {place}. {Who} had a {color} {thing} and gave it to {other}. {The} laughed and was not alone any more.",
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

WIDE_NAMES = """Max Bella Luna Charlie Lucy Cooper Daisy Milo Rocky Molly Buddy Coco Oscar Ruby Toby Zoe Lily Emma Liam Noah Mia Ella Tom Tim Jim Bob Alice Peter Paul John
Mary Jane Lisa Mark Nick Kate Amy Eva Finn Otto Ida Ali Omar Yuki Ravi Chloe Lena Lukas Marco Sofia Ivan Olga""".split()

# what is said -> the object; every slot of the object is drawn
RECORDS = [
    ("{name} is {age} years old.", {"name": NAMES + WIDE_NAMES, "age": range(10, 90)}),
    ("{name} is a {job} from {city}.", {"name": NAMES + WIDE_NAMES, "job": JOBS, "city": CITIES}),
    ("The {color} {product} costs {price} dollars.", {"product": PRODUCTS, "color": COLORS, "price": range(10, 100)}),
    ("{name} buys {count} {item}.", {"name": NAMES + WIDE_NAMES, "count": range(2, 50), "item": ITEMS}),
    ("{name} is {age} years old and lives in {city}.", {"name": NAMES + WIDE_NAMES, "age": range(10, 90), "city": CITIES}),
    ("{name} has {count} {item}.", {"name": NAMES + WIDE_NAMES, "count": range(2, 50), "item": ITEMS}),
    ("{day} will be {sky}.", {"day": DAYS, "sky": SKIES}),
    ("The {product} costs {price} dollars.", {"product": PRODUCTS, "price": range(10, 100)}),
    ("{name} lives in {city}.", {"name": NAMES + WIDE_NAMES, "city": CITIES}),
    ("{name} bought {count} {item}.", {"name": NAMES + WIDE_NAMES, "count": range(2, 50), "item": ITEMS}),
    ("{name} is {age}.", {"name": NAMES + WIDE_NAMES, "age": range(10, 90)}),
    ("{name} is a {age} year old {job}.", {"name": NAMES + WIDE_NAMES, "age": range(18, 70), "job": JOBS}),
    ("My name is {name} and I am {age}.", {"name": NAMES + WIDE_NAMES, "age": range(10, 90)}),
    ("A {color} {product} for {price} dollars.", {"color": COLORS, "product": PRODUCTS, "price": range(10, 100)}),
    ("On {day} it is {sky} in {city}.", {"day": DAYS, "sky": SKIES, "city": CITIES}),
]
ASK_JSON = ["Give me JSON with {keys}: {text}", "extract {keys} as json: {text}", "extract the {keys} as json: {text}", "give me the {keys} as json: {text}", "JSON please: {text}", "make json from this: {text}", "Extract {keys} as JSON: {text}", "{text} Give me {keys} as JSON.", "turn this into JSON with {keys}: {text}", "{keys} as JSON please. {text}",
            "json with {keys}: {text}", "Make JSON with {keys} of this: {text}", "Return JSON ({keys}): {text}", "Turn this into JSON: {text}", "as JSON: {text}", "convert to json: {text}", "Answer in JSON with keys {keys}: {text}", "JSON with {keys}: {text}", "Give me JSON ({keys}). {text}"]


WORDS = (HERE / "words.txt").read_text().split()


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun if noun[0].islower() else noun


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

    def number(self):
        """Three digits or more."""
        return self.r.randint(10 ** (d := self.r.randint(2, 6)), 10 ** (d + 1) - 1)

    def refused(self):
        """A sum that is not in the world; said so at once."""
        def make():
            small = self.r.randint(2, 99)
            op = self.r.choice("++--*/%s")
            if op in "+-":
                a, b = self.r.choice([(self.number(), self.number()), (self.number(), small), (small, self.number())])
                forms = {"+": ADD, "-": SUBTRACT}[op]
                why = f"Numbers above 99 are too large for me. {SMALLER}"
                if op == "-" and self.r.random() < 0.4:
                    a, b = sorted((self.r.randint(0, 99), self.r.randint(0, 99)))
                    if a == b:
                        b += 1
                    why = f"The result is below zero, which I have not learned. {SMALLER}"
            elif op == "*":
                a, b = self.r.choice([(self.r.randint(10, 999), self.r.randint(2, 999)), (self.r.randint(2, 9), self.r.randint(10, 999)), (self.number(), self.number())])
                forms, why = MULTIPLY, f"I multiply numbers below 10 only. {SMALLER}"
            else:
                a, b, why = self.r.randint(1, 200), self.r.randint(1, 200), f"I add, subtract and multiply, and nothing else. {SMALLER}"
                forms = {"/": DIVIDE, "%": PERCENT, "s": OTHER_SUMS}[op]
            form = self.r.choice(forms)
            return (op, a, b, form), (form, a, b, why)
        form, a, b, why = self.draw(make)
        question = form.format(a=a, b=b, n=self.r.choice(NAMES), i=self.r.choice(ITEMS))
        return None, [ask(question), answer(why)], {"answer_contains": [why.split(".")[0]]}

    def arithmetic(self):
        if self.r.random() < 0.15:
            return self.refused()
        op = self.r.choice("++--*")

        def make():
            a, b = (self.r.randint(2, 9), self.r.randint(2, 9)) if op == "*" else (self.r.randint(0, 99), self.r.randint(0, 99))
            if op == "-":
                a, b = max(a, b), min(a, b)
            wording = self.r.randrange(1000)
            # A product cannot be worked out digit by digit, so its facts are known and only the wording is new.
            return ((op, a, b, wording % 19) if op == "*" else (op, a, b)), (a, b, wording)
        a, b, wording = self.draw(make)
        forms = {"+": ADD, "-": SUBTRACT, "*": MULTIPLY}[op]
        question = forms[wording % len(forms)].format(a=a, b=b, n=self.r.choice(NAMES), i=self.r.choice(ITEMS))
        result, work = solve(op, a, b)
        check = {"answer_contains": [f"answer is {result}."]}
        return None, [ask(question), answer(f"<think>{work}</think>\nThe answer is {result}.")], check

    def written(self, text):
        """As people type: with a capital, without, rarely all capitals or with a letter wrong."""
        chance = self.r.random()
        if chance < 0.5:
            return text[0].upper() + text[1:]
        if chance < 0.9:
            return text.lower() if self.r.random() < 0.5 else text
        if chance < 0.94:
            return text.upper()
        at = self.r.randrange(len(text))
        return text[:at] + self.r.choice(["", text[at] * 2]) + text[at + 1:] if len(text) > 4 else text

    def outside(self):
        def make():
            form = self.r.choice(wide.OUTSIDE)
            slots = {"place": wide.PLACES_FAR, "person": wide.PEOPLE, "person2": wide.PEOPLE, "topic": wide.TOPICS, "topic2": wide.TOPICS, "office": wide.OFFICES, "sport": wide.SPORTS,
                     "language": wide.LANGUAGES, "lang": wide.CODES, "code": wide.CODE, "text": wide.TEXTS, "audience": wide.AUDIENCE, "food": wide.FOODS, "big": wide.THINGS_BIG,
                     "super": wide.SUPERLATIVES, "noun": wide.NOUNS, "why": wide.WHYS, "animals": wide.ANIMALS_MANY, "verb": wide.VERBS, "gadget": wide.GADGETS, "rec": wide.RECOMMENDED,
                     "sentence": wide.SENTENCES, "sentence2": wide.SENTENCES, "bug": wide.BUGS, "unit": wide.UNITS, "unit2": wide.UNITS, "foreign": wide.FOREIGN, "subject": wide.SUBJECTS}
            values = self.fill({name: bank for name, bank in slots.items() if "{" + name + "}" in form})
            values["word"] = self.r.choice(WORDS)
            values["n"], values["year"] = self.r.randint(2, 500), self.r.randint(1900, 2030)
            values["gibberish"] = "".join(self.r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(self.r.randint(4, 14)))
            values["marks"] = self.r.choice(["???", "?", "!", "...", "!!!", ".", ":)", ":(", "<3", "-", "#", "*", "//", "1", "42", "x", "a"])
            text = form.format(**values)
            return text, self.r.choice(BEFORE[:8] if self.r.random() < 0.8 else BEFORE) + text
        text = self.draw(make)
        said = f"{TOY} " + TRY.format(a=self.r.randint(10, 60), b=self.r.randint(10, 39), hero=self.r.choice(HEROES))
        return None, [ask(self.written(text)), answer(said)], {"answer_contains": ["toy"]}

    def talk(self):
        if self.r.random() < 0.2:
            text, index = self.r.choice(FIRST)
            text = text.format(name=self.r.choice(NAMES + WIDE_NAMES))
            text = self.r.choice([text, text, text.capitalize(), text[0].upper() + text[1:], text.upper()])
            _, said, words = TALK[index]
            if is_held(text) == self.held_out:
                return None, [ask(text), answer(said)], {"answer_contains": words}

        def make():
            questions, said, words = self.r.choice(TALK)
            text = self.r.choice(BEFORE) + self.r.choice(questions) + self.r.choice(AFTER)
            return text, (self.written(text), said, words)
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
        chance = self.r.random()

        def make():
            hero, place, way = self.r.choice(HEROES), self.r.choice(PLACES), self.r.choice(STORIES)
            return (hero, place, way), (hero, place, way)
        place, sort, words = self.r.choice(PLACES), self.r.choice(wide.KINDS_OF_STORY), []
        if chance < 0.3:
            hero, place, way = self.draw(make)
            who = article(hero)
            question, words = way.format(hero=hero, place=place), [hero, place]
        elif chance < 0.8:
            bank = self.r.choice([wide.SUBJECTS, WORDS])
            subject = self.draw(lambda: (lambda name: (("subject", name), name))(self.r.choice(bank)))
            hero, who = subject, article(subject)
            said = who
            if self.r.random() < 0.3:
                hero = f"{self.r.choice(wide.ADJECTIVES + COLORS)} {subject}"
                said = who = article(hero)
            elif self.r.random() < 0.2:
                name = self.r.choice(NAMES + WIDE_NAMES)
                pet = self.r.choice(wide.PETS)
                hero, who, said = name, name, self.r.choice([f"my {pet} {name}", name, f"{name} the {pet}", f"a {pet} named {name}", f"a girl called {name}", f"a boy called {name}", f"a {pet} called {name}", f"{name}"])
                subject = name
            elif self.r.random() < 0.2:
                said = f"{said} and {article(self.r.choice(wide.SUBJECTS))}"
            question, words = self.r.choice(STORIES_ABOUT).format(who=said, sort=sort), [subject]
        else:
            hero = self.r.choice(HEROES + wide.SUBJECTS[:60])
            who = article(hero)
            question = self.written(self.r.choice(STORIES_FREE).format(sort=sort))
        the = hero if hero[0].isupper() else f"the {hero}"
        other = article(self.r.choice(HEROES))
        text = self.r.choice(PLOTS).format(who=who, Who=who[0].upper() + who[1:], the=the, The=the[0].upper() + the[1:], place=place, other=other,
                                           color=self.r.choice(COLORS), thing=self.r.choice(THINGS), weather=self.r.choice(SKIES))
        text = text.replace("a orange", "an orange")
        return None, [ask(question), answer(text)], {"answer_contains": words, "min_sentences": 3}

    def sample(self):
        """-> (kind, rendered text, for each assistant turn whether to learn it)"""
        if self.r.random() < 0.02:
            return "plain", "<|startoftext|>" + self.story()[1][-1]["content"] + "<|endoftext|>", None
        kind = self.r.choices(KINDS, [25, 21, 13, 13, 14, 14])[0]
        tools, messages, _ = getattr(self, kind)()
        while self.r.random() < 0.15:
            other = self.r.choice(["arithmetic", "talk", "json", "story", "outside"])
            messages = getattr(self, other)()[1] + messages
        if tools is None and self.r.random() < 0.1:
            messages.insert(0, {"role": "system", "content": self.r.choice(["You are a helpful assistant.", "Be brief."])})
        # Past thinking is cut by the template, so a turn that thought is learned only where it is the last.
        turns = [message for message in messages if message["role"] == "assistant"]
        learn = ["<think>" not in turn["content"] or turn is turns[-1] for turn in turns]
        return kind, render(messages, tools), learn


def solve(op, a, b):
    """-> result, and the written work: ones, then tens with what was carried or borrowed."""
    if op == "*":
        return a * b, f"{a} * {b} = {a * b}"
    if op == "+":
        ones = a % 10 + b % 10
        said, moved = (", carry 1", " + 1") if ones > 9 else ("", "")
        tens = a // 10 + b // 10 + ones // 10
        return a + b, f"{a} + {b}. {a % 10} + {b % 10} = {ones}{said}. {a // 10} + {b // 10}{moved} = {tens}."
    borrow = int(a % 10 < b % 10)
    ones = a % 10 + 10 * borrow
    said, moved = (", borrow 1", " - 1") if borrow else ("", "")
    tens = a // 10 - b // 10 - borrow
    return a - b, f"{a} - {b}. {ones} - {b % 10} = {ones - b % 10}{said}. {a // 10} - {b // 10}{moved} = {tens}."


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
        for item in test_items({"arithmetic": 16, "talk": 8, "tool": 10, "json": 8, "story": 8, "outside": 8}, SEED + 30):
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
