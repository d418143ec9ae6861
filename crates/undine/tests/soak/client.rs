//! One client: random requests, some of them wrong, some of them left before their end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// Longest time one answer may take.
const PATIENCE: Duration = Duration::from_secs(120);
const TOKENS_MAX: u64 = 48;

/// What clients know of what happened.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// Requests sent.
    pub requests: u64,
    /// Answered in one piece.
    pub complete: u64,
    /// Streams read to their end.
    pub streamed: u64,
    /// Left before the end.
    pub cancelled: u64,
    /// 4xx.
    pub refused: u64,
    /// 503.
    pub full: u64,
    /// Tokens of complete answers.
    pub tokens: u64,
    /// Most tokens that the cancelled ones can have had.
    pub tokens_cancelled_max: u64,
    /// Anything else.
    pub unexpected: Vec<String>,
}

impl Seen {
    pub fn plus(mut self, other: Self) -> Self {
        self.requests += other.requests;
        self.complete += other.complete;
        self.streamed += other.streamed;
        self.cancelled += other.cancelled;
        self.refused += other.refused;
        self.full += other.full;
        self.tokens += other.tokens;
        self.tokens_cancelled_max += other.tokens_cancelled_max;
        self.unexpected.extend(other.unexpected);
        self
    }
}

pub struct Client {
    address: String,
    random: fastrand::Rng,
    pub seen: Seen,
}

struct Answer {
    status: u16,
    body: String,
}

impl Client {
    pub fn new(address: &str, seed: u64) -> Self {
        Self { address: address.to_owned(), random: fastrand::Rng::with_seed(seed), seen: Seen::default() }
    }

    /// One random request. A server that is gone is an empty answer.
    pub fn act(&mut self) {
        match self.random.u8(0..20) {
            0..6 => self.ask_whole(),
            6..13 => self.ask_stream(),
            13..17 => self.leave(),
            _ => self.ask_nonsense(),
        }
    }

    /// The same question, answered the same way by every server of the model.
    pub fn fixed_answer(&self) -> Value {
        let body = json!({"prompt": "One two three", "max_tokens": 16, "temperature": 0, "ignore_eos": true});
        let answer = self.exchange("/v1/completions", &body.to_string()).expect("a server");
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str::<Value>(&answer.body).expect("JSON")["choices"].clone()
    }

    fn words(&mut self) -> String {
        const WORDS: [&str; 12] = [
            "the",
            "river",
            "says",
            "42",
            "çà",
            "\n",
            "<think>",
            "{\"a\": 1}",
            "水",
            "and then",
            "...",
            "🐟",
        ];
        let count =
            if self.random.u8(0..8) == 0 { self.random.usize(100..400) } else { self.random.usize(1..20) };
        let words: Vec<&str> = (0..count).map(|_| WORDS[self.random.usize(0..WORDS.len())]).collect();
        words.join(" ")
    }

    /// A request that is in order.
    fn body(&mut self) -> (&'static str, Value) {
        let max_tokens = self.random.u64(1..=TOKENS_MAX);
        let mut body =
            json!({"max_tokens": max_tokens, "temperature": self.random.f32(), "seed": self.random.u32(..)});
        if self.random.bool() {
            body["ignore_eos"] = true.into();
        }
        match self.random.u8(0..6) {
            0 => body["stop"] = json!(["e", "水"]),
            1 => body["logit_bias"] = json!({"7": -50, "9": 5.5}),
            2 => body["top_k"] = json!(20),
            _ => {}
        }
        if self.random.bool() {
            body["prompt"] = self.words().into();
            return ("/v1/completions", body);
        }
        body["messages"] = json!([{"role": "user", "content": self.words()}]);
        match self.random.u8(0..5) {
            0 => {
                let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
                body["tools"] =
                    json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}}]);
            }
            1 => body["logprobs"] = true.into(),
            _ => {}
        }
        ("/v1/chat/completions", body)
    }

    fn ask_whole(&mut self) {
        let (path, body) = self.body();
        let Some(answer) = self.counted(path, &body.to_string()) else { return };
        if answer.status == 200 {
            let tokens = usage(&serde_json::from_str(&answer.body).unwrap_or_default());
            self.note_complete(tokens, &answer);
            self.seen.complete += 1;
        }
    }

    fn ask_stream(&mut self) {
        let (path, mut body) = self.body();
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let Some(answer) = self.counted(path, &body.to_string()) else { return };
        if answer.status == 200 {
            let events =
                answer.body.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
            let tokens = events.filter_map(|event| usage(&serde_json::from_str(event).ok()?)).last();
            let ends = answer.body.ends_with("data: [DONE]\n\n");
            self.note_complete(tokens.filter(|_| ends), &answer);
            self.seen.streamed += 1;
        }
    }

    fn note_complete(&mut self, tokens: Option<u64>, answer: &Answer) {
        match tokens {
            Some(tokens) => self.seen.tokens += tokens,
            None => self.seen.unexpected.push(format!("not a whole answer: {}", answer.body)),
        }
    }

    /// Sends a request, and goes away at once, or after some of the answer.
    fn leave(&mut self) {
        let (path, mut body) = self.body();
        let max_tokens = body["max_tokens"].as_u64().unwrap_or_default();
        body["stream"] = self.random.bool().into();
        let Some(mut stream) = self.send(path, &body.to_string()) else { return };
        self.seen.requests += 1;
        self.seen.cancelled += 1;
        self.seen.tokens_cancelled_max += max_tokens;
        std::thread::sleep(Duration::from_millis(self.random.u64(0..60)));
        if self.random.bool() {
            drop(stream.set_read_timeout(Some(Duration::from_millis(50))));
            drop(stream.read(&mut [0; 256]));
        }
    }

    /// A request that must be refused.
    fn ask_nonsense(&mut self) {
        let (path, body) = match self.random.u8(0..8) {
            0 => ("/v1/completions", "{".to_owned()),
            1 => ("/v1/completions", json!({"prompt": "x", "temperature": "hot"}).to_string()),
            2 => ("/v1/completions", json!({"prompt": [99_999_999]}).to_string()),
            3 => ("/v1/chat/completions", json!({"messages": []}).to_string()),
            4 => {
                ("/v1/chat/completions", json!({"messages": [{"role": "fish", "content": "x"}]}).to_string())
            }
            5 => ("/v1/completions", json!({"prompt": "x", "max_tokens": 1_000_000}).to_string()),
            6 => ("/v1/nothing", "{}".to_owned()),
            _ => ("/v1/completions", json!({"prompt": "x", "model": "another"}).to_string()),
        };
        if let Some(Answer { status: 200, body: answer }) = self.counted(path, &body) {
            self.seen.unexpected.push(format!("{body} was answered: {answer}"));
        }
    }

    /// Exchanges, and counts everything but success.
    fn counted(&mut self, path: &str, body: &str) -> Option<Answer> {
        let answer = self.exchange(path, body)?;
        self.seen.requests += 1;
        match answer.status {
            200 => {}
            503 if answer.body.contains("queue_full") => self.seen.full += 1,
            400..=499 => self.seen.refused += 1,
            status => self.seen.unexpected.push(format!("{status} to {body}: {}", answer.body)),
        }
        Some(answer)
    }

    fn send(&self, path: &str, body: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes()).ok()?;
        Some(stream)
    }

    fn exchange(&self, path: &str, body: &str) -> Option<Answer> {
        let mut reader = BufReader::new(self.send(path, body)?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
        }
        // HTTP/1.0: the body goes to the end of the connection.
        let mut body = String::new();
        reader.read_to_string(&mut body).ok()?;
        Some(Answer { status, body })
    }
}

fn usage(answer: &Value) -> Option<u64> {
    answer["usage"]["completion_tokens"].as_u64()
}
