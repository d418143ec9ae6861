"""What newcomers ask: the wider banks of the demo model's world."""

# Who a story can be about. One in ten never occurs in training: the model has to copy it from the question.
SUBJECTS = """fox dog cat robot bear rabbit mouse dragon owl frog pirate wizard knight queen king princess prince giant witch
fairy mermaid unicorn horse pony lion tiger wolf elephant monkey penguin whale dolphin shark turtle snail bee ant spider butterfly
bird duck goose hen eagle parrot crow deer squirrel hedgehog badger otter beaver panda koala zebra camel goat sheep cow pig donkey
farmer baker sailor teacher doctor nurse painter singer dancer gardener fisherman hunter soldier clown detective thief astronaut
pilot driver chef student child boy girl baby grandmother grandfather mother father brother sister friend neighbor stranger ghost
monster alien vampire zombie troll elf dwarf goblin angel snowman scarecrow puppet doll toy teddy train car boat ship plane rocket
bicycle truck tractor balloon kite house castle tower bridge lighthouse windmill school library shop market garden tree flower rose
apple pumpkin mushroom carrot potato cake cookie pizza river lake sea ocean island mountain volcano cave forest desert star moon sun
planet comet cloud storm rainbow snowflake raindrop stone diamond key lamp clock mirror book letter map coin crown ring sword hat
shoe umbrella piano violin drum guitar computer phone camera door window chair table bed pillow candle bottle cup spoon""".split()
PETS = "dog cat horse rabbit hamster parrot turtle goldfish pony kitten puppy".split()
KINDS_OF_STORY = "short little funny sad happy scary nice good bedtime fairy silly sweet quick new".split()
ADJECTIVES = "little old brave tiny clever lonely sleepy curious happy kind lazy hungry magic proud quiet".split()

# ---------------------------------------------------------------- outside of the world
PLACES_FAR = """France Germany Spain Italy Japan China India Brazil Canada Mexico Egypt Kenya Norway Sweden Poland Greece Turkey Peru Chile
Cuba Iceland Ireland Portugal Austria Hungary Finland Denmark Belgium Australia Argentina Nigeria Morocco Vietnam Thailand Korea Texas
California Florida Moscow Dubai Chicago Munich Warsaw Milan Dublin Zurich Geneva Mumbai Shanghai Singapore""".split()
PEOPLE = """Einstein Newton Napoleon Caesar Cleopatra Mozart Beethoven Bach Picasso Shakespeare Darwin Gandhi Lincoln Washington Churchill
Plato Aristotle Galileo Columbus Curie Tesla Edison Turing Kennedy Obama Messi Ronaldo Federer Chaplin Elvis Madonna Goethe Kant Marx
Freud Buddha Homer Dante Rembrandt Kepler Euler Gauss""".split()
TOPICS = """quantum physics|black holes|evolution|gravity|photosynthesis|democracy|inflation|climate change|machine learning|recursion|the internet
blockchain|DNA|electricity|magnets|the stock market|relativity|dreams|philosophy|chess|football|cricket|taxes|yoga|meditation|history|the moon
the Roman Empire|the French Revolution|world war two|dinosaurs|volcanoes|earthquakes|vaccines|viruses|bacteria|cancer|the heart|the brain
nuclear power|solar energy|electric cars|airplanes|rockets|satellites|computers|programming|Python|Rust lifetimes|JavaScript|databases|Linux|SQL|regular expressions
docker|neural networks|transformers|attention|big data|cooking|baking bread|coffee|tea|wine|gardening|cats|birds|whales|economics|marketing
psychology|poetry|opera|jazz|ballet|painting|architecture|Buddhism|the Bible|law|contracts|insurance|mortgages|investing|bitcoin|diets|vitamins
sleep|headaches|running|swimming|tennis|golf|movies|video games|anime|novels|grammar|Latin|calculus|algebra|statistics|probability|geometry
HTTP|HTML|CSS|DNS|TCP|encryption|passwords|viruses on computers|the weather|seasons|tides|oceans|deserts|glaciers|rivers""".replace("\n", "|").split("|")
LANGUAGES = "Spanish French German Italian Portuguese Dutch Polish Russian Turkish Greek Japanese Chinese Korean Arabic Hindi Latin Swedish".split()
CODE = """sort a list|reverse a string|read a file|parse JSON|call an API|print primes|compute factorials|make a web page|connect to a database
draw a circle|sum a column|count words|download a page|check a password|send an email|play a game|scrape a website|resize an image|merge two dictionaries|find duplicates""".replace("\n", "|").split("|")
CODES = "Python JavaScript Rust Java C C++ Go bash SQL TypeScript Ruby PHP Swift Kotlin".split()
TEXTS = """poem|haiku|song|essay|letter|email|speech|joke|riddle|recipe|blog post|tweet|cover letter|resume|limerick|rap|script|summary|report
review|invitation|wedding toast|business plan|lesson plan|slogan|headline|press release|love letter|apology|thank you note|shopping list|to-do list""".replace("\n", "|").split("|")
AUDIENCE = "my boss|my teacher|my mother|my friend|a customer|my landlord|the sea|spring|love|my cat|a birthday|Christmas|school|work|a friend|my team|autumn|the rain|coffee".split("|")
FOODS = "pasta|rice|eggs|pizza|bread|soup|pancakes|chicken|fish|a steak|lasagna|sushi|curry|tofu|salad|potatoes|a cake|cookies|risotto|beans".split("|")
THINGS_BIG = "moon|sun|ocean|Earth|universe|Eiffel Tower|Great Wall|Amazon|Nile|Everest|Sahara|Pacific|Titanic|pyramids|Mars|Jupiter|Golden Gate Bridge|Grand Canyon".split("|")
SUPERLATIVES = "tallest longest biggest oldest fastest smallest deepest richest heaviest hottest coldest largest highest strongest most famous".split(" ")
NOUNS = "mountain river country city building animal person lake desert tree bird fish car plane island bridge planet ocean book movie band song".split()
ANIMALS_MANY = "dogs cats birds fish whales bees ants bats snakes cows horses frogs spiders owls penguins elephants lions sharks crocodiles".split()
VERBS = "sleep|sing|fly|swim|sneeze|dream|cry|laugh|yawn|bark|purr|migrate|change color|lay eggs|hibernate|eat grass|see in the dark".split("|")
WHYS = "the sky blue|the sea salty|grass green|snow white|blood red|the sun hot|ice slippery|fire hot|water wet|space dark|gold expensive|sugar sweet|the moon round|coffee bitter|the night dark".split("|")
SPORTS = "world cup|super bowl|Olympics|Tour de France|Champions League|World Series|Wimbledon|election|Nobel prize|Oscars|Eurovision|Stanley Cup|grand prix|marathon".split("|")
OFFICES = "president|prime minister|king|queen|chancellor|mayor|governor|pope|richest man|CEO|captain|coach".split("|")
GADGETS = "phone|laptop|car|printer|router|TV|washing machine|bike|dishwasher|camera|headphones|tablet|keyboard|boiler|fridge".split("|")
RECOMMENDED = "book|movie|restaurant|song|game|hotel|phone|laptop|podcast|museum|hobby|gift|wine|beach|show|bike|name for my cat|name for a baby".split("|")
FOREIGN = ["Bonjour, comment allez-vous ?", "Hola, ¿qué tal?", "Wie geht es dir?", "Guten Tag", "Ciao, come stai?", "Buenos días", "Salut !", "Olá, tudo bem?",
           "Hej, hur mår du?", "Dzień dobry", "你好吗", "こんにちは", "안녕하세요", "Привет, как дела?", "Merhaba", "Was ist das?", "Qui es-tu ?", "¿Quién eres?",
           "Erzähl mir eine Geschichte.", "Quelle heure est-il ?", "¿Qué hora es?", "Ich verstehe nicht", "Je ne sais pas", "Namaste", "Aloha", "مرحبا", "שלום", "Γεια σου"]
SENTENCES = ["The cat sat on the mat.", "It was raining all day.", "We went to the market.", "The meeting is at noon.", "She likes green tea.", "My car is broken.",
             "The train was late again.", "He plays the piano well.", "They moved to a new house.", "The soup is too hot."]
BUGS = ["for i in range(5) print(i)", "if x = 3: pass", "int main( { return 0; }", "print('hello)", "let x = ;", "SELECT * FORM users", "def f(: return 1", "console.log('a'"]
UNITS = "miles|kilometers|pounds|kilos|feet|meters|inches|gallons|liters|degrees|ounces|cups".split("|")

OUTSIDE = """What is the capital of {place}?|capital of {place}|Where is {place}?|How many people live in {place}?|how big is {place}|What language do they speak in {place}?
Tell me about {place}.|What should I see in {place}?|best food in {place}|Who was {person}?|who is {person}|When was {person} born?|What did {person} do?|tell me about {person}
Who is the {office} of {place}?|who is the {office}|Who won the {sport}?|who won the {sport} in {year}|When is the next {sport}?|What happened in {year}?|what happened in {place} in {year}
Explain {topic}.|explain {topic} to me|What is {topic}?|what's {topic}|How does {topic} work?|how do {topic} work|Tell me about {topic}.|I want to learn about {topic}|What do you think about {topic}?
Teach me {topic}.|why is {topic} important?|Give me an introduction to {topic}|summarize {topic}|Do you know anything about {topic}?|define {topic}|five facts about {topic}
Translate {word} to {language}.|How do you say {word} in {language}?|translate this to {language}: {sentence}|what does {word} mean in {language}|do you speak {language}?|and now in {language}|say that in {language}
Write {lang} code to {code}.|write a {lang} program to {code}|How do I {code} in {lang}?|how to {code}|{lang} function to {code}|can you code in {lang}?|Fix this bug: {bug}|what is wrong here: {bug}|debug this {bug}
Write a {text}.|write a {text} about {audience}|Write a {text} for {audience}.|Can you write a {text}?|I need a {text} for {audience}|compose a {text}|give me a {text}|tell me a {text}|help me write a {text}
How do I cook {food}?|how to make {food}|Recipe for {food}?|what goes well with {food}|how long do I boil {food}|is {food} healthy?
How far is the {big}?|how old is the {big}|How big is the {big}?|who built the {big}?|how deep is the {big}|what is the {big} made of|Where is the {big}?
What is the {super} {noun}?|what's the {super} {noun} in the world|Which {noun} is the {super}?|name the {super} {noun} in {place}
Why is {why}?|why is {why}|Why do {animals} {verb}?|why do {animals} {verb}|How do {animals} {verb}?|Can {animals} {verb}?|what do {animals} eat|how long do {animals} live?|are {animals} smart?
My {gadget} does not work.|my {gadget} is broken, what now?|How do I fix my {gadget}?|which {gadget} should I buy?|how much does a {gadget} cost|turn on the {gadget}
Recommend a {rec}.|recommend me a good {rec}|What is the best {rec}?|can you suggest a {rec}?|what is your favorite {rec}?|I am looking for a {rec}
What time is it?|what day is it today|what is the date|what year is it|Is it going to rain tomorrow?|what's the weather like|how is the weather today|will it snow?|what's the temperature outside
What is the meaning of life?|what is love?|do you love me?|are you happy?|do you like {topic}?|do you have feelings?|are you alive?|can you think?|do you dream?|are you conscious?|where do you live?|how old are you?|do you have a body?
can you help me with my homework?|help me with {topic}|I have a question about {topic}|I am bored|I am sad today|I feel sick|what should I do today?|what should I eat?|tell me something interesting|tell me a fact|surprise me|sing a song|play some music|play a game with me|let's chat
Summarize: {sentence} {sentence2}|summarize this text: {sentence} {sentence2}|Rewrite this: {sentence}|correct my grammar: {sentence}|Is this right? {sentence}|make this shorter: {sentence} {sentence2}|{sentence}|{sentence} {sentence2}
Convert {n} {unit} to {unit2}.|how many {unit} are {n} {unit2}?|what is {n} {unit} in {unit2}|What does HTTP {n} mean?|what does error {n} mean|how many days until Christmas|when is Easter
draw a {subject}|show me a picture of a {subject}|make an image of a {subject}|open the {gadget}|call {audience}|book a flight to {place}|order {food}|buy a {gadget}|find a hotel in {place}|search the web for {topic}|google {topic}
what's the news|who will win the {sport}?|should I invest in {topic}?|is {topic} dangerous?|is {person} still alive?|{person} or {person2}?|compare {topic} and {topic2}|what is better, {topic} or {topic2}?
{foreign}|{foreign}|{foreign}|{gibberish}|{gibberish}|{gibberish}|{marks}|{topic}|{place}|{person}|{word}|{food} {topic}|{subject} {place} {word}""".replace("\n", "|").split("|")
