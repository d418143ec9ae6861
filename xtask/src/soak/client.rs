//! One client: which kinds of requests there are, and what all of them need.

use std::io;

use serde_json::{Value, json};

use super::http::{Answer, Target};
use super::kinds;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Answered, and the answer was right.
    Right,
    /// Refused, as it had to be.
    Refused,
    /// There was no place for it.
    Full,
    /// The client left, or said nothing.
    Left,
}

/// An outcome, or what was wrong with the answer.
pub type Judgement = Result<Outcome, String>;

/// A kind of request.
pub struct Kind {
    pub name: &'static str,
    pub act: fn(&mut Client) -> Judgement,
}

/// Every kind.
pub fn all() -> Vec<Kind> {
    [kinds::answers(), kinds::forms(), kinds::misuse(), kinds::connections()].into_iter().flatten().collect()
}

/// A question whose answer is known: greedy or seeded, asked when nobody else asked.
pub struct Known {
    pub path: &'static str,
    pub body: Value,
    pub choices: Value,
}

/// What is known of the server before the others come.
pub struct Truth {
    pub known: Vec<Known>,
    /// Whether the model takes pictures.
    pub sees: bool,
}

pub struct Client<'a> {
    pub target: &'a Target,
    pub truth: &'a Truth,
    pub random: fastrand::Rng,
}

const WORDS: [&str; 16] = [
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
    "stone's",
    "\t",
    "<|im_end|>",
    "x = y + 1;",
];

impl Client<'_> {
    /// So many random words.
    pub fn words(&mut self, count: usize) -> String {
        let words: Vec<&str> = (0..count).map(|_| WORDS[self.random.usize(0..WORDS.len())]).collect();
        words.join(" ")
    }

    /// A short text, sometimes a longer one.
    pub fn text(&mut self) -> String {
        let count =
            if self.random.u8(0..8) == 0 { self.random.usize(60..240) } else { self.random.usize(1..20) };
        self.words(count)
    }

    /// A request that is in order, without `stream`.
    pub fn request(&mut self) -> (&'static str, Value) {
        let mut body = json!({
            "max_tokens": self.random.u32(1..=32), "temperature": self.random.f32(), "seed": self.random.u32(..),
        });
        if self.random.bool() {
            body["ignore_eos"] = true.into();
        }
        if self.random.bool() {
            body["prompt"] = self.text().into();
            return ("/v1/completions", body);
        }
        body["messages"] = json!([{"role": "user", "content": self.text()}]);
        ("/v1/chat/completions", body)
    }

    /// Sends a request; `None` if there is no place for it.
    pub fn post(&self, path: &str, body: &Value) -> Result<Option<Answer>, String> {
        let answer = self.target.post(path, &body.to_string()).map_err(|error| format!("{path}: {error}"))?;
        Ok((!is_full(&answer)).then_some(answer))
    }

    /// Sends a request that must be answered, and judges the answer.
    pub fn ask(
        &self,
        path: &str,
        body: &Value,
        judge: impl FnOnce(&Value) -> Result<(), String>,
    ) -> Judgement {
        let Some(answer) = self.post(path, body)? else { return Ok(Outcome::Full) };
        let told = |what: &str| {
            format!(
                "{what}: {} {} to {path} {}",
                answer.status,
                excerpt(&answer.body),
                excerpt(&body.to_string())
            )
        };
        if answer.status != 200 {
            return Err(told("not answered"));
        }
        let json = serde_json::from_str(&answer.body).map_err(|_| told("not JSON"))?;
        judge(&json).map(|()| Outcome::Right).map_err(|what| told(&what))
    }
}

/// Whether the server had no place for a request.
pub fn is_full(answer: &Answer) -> bool {
    answer.status == 503 || answer.status == 429
}

/// Judges a request that must be refused as the client's fault.
pub fn refused(answer: io::Result<Answer>) -> Judgement {
    match answer {
        Ok(answer) if is_full(&answer) => Ok(Outcome::Full),
        Ok(Answer { status: 400..=499, .. }) => Ok(Outcome::Refused),
        Ok(answer) => Err(format!("expected a refusal, found {} {}", answer.status, excerpt(&answer.body))),
        Err(error) => Err(format!("expected a refusal, found {error}")),
    }
}

/// The beginning of a text.
pub fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
}
