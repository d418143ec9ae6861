//! Tool calls as people read them: `(calls get_weather(city="Berlin"))` in place of the model's own syntax.

use serde_json::Value as Json;
use undine_text::tools::{TOOL_CALL_END, TOOL_CALL_START};

/// Follows an answer, and writes the calls in it anew.
#[derive(Default)]
pub struct Calls {
    /// What may be the beginning of a marker, or is a call that has not ended.
    held: String,
    is_inside: bool,
}

impl Calls {
    /// What can be shown after another piece of the answer.
    pub fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let mut shown = String::new();
        loop {
            let marker = if self.is_inside { TOOL_CALL_END } else { TOOL_CALL_START };
            let Some(at) = self.held.find(marker) else { break };
            let rest = self.held.split_off(at + marker.len());
            let before = std::mem::replace(&mut self.held, rest);
            let before = &before[..at];
            match self.is_inside {
                true => shown.push_str(&described(before)),
                false => shown.push_str(before),
            }
            self.is_inside = !self.is_inside;
        }
        if !self.is_inside {
            let kept = self.held.split_off(self.held.len() - held_back(&self.held));
            shown.push_str(&std::mem::replace(&mut self.held, kept));
        }
        shown
    }

    /// What is left when the answer has ended.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        match std::mem::take(&mut self.is_inside) {
            true => format!("(calls {}...", bare(held.trim())),
            false => held,
        }
    }
}

/// Bytes at the end of a text that may begin a marker.
fn held_back(text: &str) -> usize {
    let lengths = (1..TOOL_CALL_START.len()).rev();
    lengths.into_iter().find(|&length| text.ends_with(&TOOL_CALL_START[..length])).unwrap_or(0)
}

fn described(inside: &str) -> String {
    let inside = inside.trim();
    let calls = serde_json::from_str::<Json>(inside).ok().and_then(|json| from_json(&json));
    format!("(calls {})", calls.unwrap_or_else(|| bare(inside).to_owned()))
}

/// Calls in JSON as Python would write them; `None` for JSON that is no call.
fn from_json(json: &Json) -> Option<String> {
    match json {
        Json::Array(list) => {
            let calls: Option<Vec<String>> = list.iter().map(from_json).collect();
            calls.filter(|calls| !calls.is_empty()).map(|calls| calls.join(", "))
        }
        Json::Object(call) => {
            let name = call.get("name")?.as_str()?;
            let arguments = call.get("arguments").or_else(|| call.get("parameters"));
            let arguments = arguments.and_then(Json::as_object).into_iter().flatten();
            let arguments: Vec<String> = arguments.map(|(name, value)| format!("{name}={value}")).collect();
            Some(format!("{name}({})", arguments.join(", ")))
        }
        _ => None,
    }
}

/// A list of calls without its brackets.
fn bare(text: &str) -> &str {
    text.strip_prefix('[').map_or(text, |rest| rest.strip_suffix(']').unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_readable_however_they_arrive() {
        let python = "Let me see. <|tool_call_start|>[get_weather(city=\"Berlin\")]<|tool_call_end|>Done.";
        let json = "<|tool_call_start|>[{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2]}}]<|tool_call_end|>";
        for (text, expected) in [
            (python, "Let me see. (calls get_weather(city=\"Berlin\"))Done."),
            (json, "(calls add(a=1, b=[2]))"),
            ("<|tool_call_start|>[f(x=", "(calls f(x=..."),
            ("2 < 3 <| <|tool", "2 < 3 <| <|tool"),
            ("no calls", "no calls"),
        ] {
            for size in [1, 3, text.len()] {
                let mut calls = Calls::default();
                let bytes = text.as_bytes().chunks(size);
                let pieces = bytes.map(|piece| std::str::from_utf8(piece).expect("ASCII"));
                let mut shown: String = pieces.map(|piece| calls.push(piece)).collect();
                shown.push_str(&calls.finish());
                assert_eq!(shown, expected, "{size}");
            }
        }
    }
}
