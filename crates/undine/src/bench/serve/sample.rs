//! One request as it went, from the chunks of its answer. Pure: times come in, numbers come out.

use serde_json::Value as Json;

/// One request; times in seconds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sample {
    /// Number of its chat, or of the request where there is one turn.
    pub index: usize,
    /// Number of the turn in its chat, from 0.
    pub turn: u32,
    /// When it was sent, from the start of the measurement.
    pub start: f64,
    /// From sending to the first chunk of text.
    pub ttft: f64,
    /// From each chunk of text to the next.
    pub itls: Vec<f64>,
    /// From sending to the last chunk, the one that tells the reason of the end included.
    pub latency: f64,
    /// The answer; reasoning is not part of it.
    pub text: String,
    /// Tokens of the prompt, as the server says, else as the prompt was made.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that the server had cached, if it says so.
    pub cached_tokens: Option<u32>,
    /// Tokens of the answer, if the server says.
    pub counted_tokens: Option<u32>,
    /// Chunks of the answer.
    pub chunks: u32,
    /// Why it failed; nothing above then counts.
    pub error: Option<String>,
}

impl Sample {
    /// Tokens of the answer: as the server says, else one for each chunk.
    pub fn output_tokens(&self) -> u32 {
        self.counted_tokens.unwrap_or(self.chunks)
    }

    /// Whether the request succeeded.
    pub fn is_success(&self) -> bool {
        self.error.is_none()
    }

    /// Seconds per token after the first; `None` if there is no more than one.
    pub fn tpot(&self) -> Option<f64> {
        let rest = self.output_tokens().checked_sub(1).filter(|&rest| rest > 0)?;
        Some((self.latency - self.ttft) / f64::from(rest))
    }
}

/// A sample in the making.
#[derive(Debug, Default)]
pub struct Recorder {
    sample: Sample,
    /// When the last chunk of text arrived, in seconds from sending.
    last: Option<f64>,
    /// The answer has said that it is over.
    is_finished: bool,
}

impl Recorder {
    /// Starts from what is known before the request is sent.
    pub fn new(sample: Sample) -> Self {
        Self { sample, ..Self::default() }
    }

    /// Takes the data of one event that arrived `at` seconds after sending. Fails if it tells an error or is
    /// no JSON.
    pub fn event(&mut self, at: f64, data: &str) -> Result<(), String> {
        if data == "[DONE]" {
            self.is_finished = true;
            return Ok(());
        }
        let chunk: Json = serde_json::from_str(data)
            .map_err(|error| format!("expected JSON in the stream, found {data:.80}: {error}"))?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(error.get("message").and_then(Json::as_str).map_or(error.to_string(), str::to_owned));
        }
        self.take_usage(&chunk);
        let Some(choice) = chunk["choices"].get(0) else { return Ok(()) };
        let ends = choice["finish_reason"].is_string();
        self.sample.latency = at;
        if let Some(text) = text_of(choice, ends) {
            match self.last {
                None => self.sample.ttft = at,
                Some(last) => self.sample.itls.push(at - last),
            }
            self.last = Some(at);
            self.sample.chunks += 1;
            self.sample.text.push_str(text);
        }
        self.is_finished |= ends;
        Ok(())
    }

    fn take_usage(&mut self, chunk: &Json) {
        let number = |value: &Json| value.as_u64().and_then(|value| u32::try_from(value).ok());
        let usage = &chunk["usage"];
        if let Some(tokens) = number(&usage["prompt_tokens"]) {
            self.sample.prompt_tokens = tokens;
        }
        self.sample.counted_tokens = number(&usage["completion_tokens"]).or(self.sample.counted_tokens);
        // llama-server's own field, beside OpenAI's.
        let cached = number(&usage["prompt_tokens_details"]["cached_tokens"]);
        let cached = cached.or_else(|| number(&chunk["timings"]["cache_n"]));
        self.sample.cached_tokens = cached.or(self.sample.cached_tokens);
    }

    /// The sample, once the stream has ended.
    pub fn finish(mut self) -> Sample {
        if !self.is_finished {
            let chunks = self.sample.chunks;
            self.sample.error = Some(format!("the stream broke off after {chunks} chunks of text"));
        }
        if self.last.is_none() {
            // An answer without text: its end is all there is.
            self.sample.ttft = self.sample.latency;
        }
        self.sample
    }

    /// The sample of a request that failed.
    pub fn fail(mut self, error: String) -> Sample {
        self.sample.error = Some(error);
        self.sample
    }
}

/// What a chunk adds to the answer, if it stands for a token: the text, or nothing where the token has no
/// text of its own or belongs to reasoning or a tool call.
fn text_of(choice: &Json, ends: bool) -> Option<&str> {
    let delta = &choice["delta"];
    if delta.is_object() {
        let is_filled = |name: &str| match &delta[name] {
            Json::String(text) => !text.is_empty(),
            Json::Array(calls) => !calls.is_empty(),
            _ => false,
        };
        let hidden = ["reasoning", "reasoning_content", "tool_calls"].into_iter().any(is_filled);
        return match delta["content"].as_str() {
            Some(text) if !text.is_empty() => Some(text),
            _ => hidden.then_some(""),
        };
    }
    // A chunk without text may be half a character; the last one without text is no token.
    choice["text"].as_str().filter(|text| !(ends && text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        name: &'static str,
        events: &'static [(f64, &'static str)],
        expected: Sample,
    }

    fn error(text: &str) -> Sample {
        Sample { error: Some(text.to_owned()), ..Sample::default() }
    }

    fn check<const N: usize>(cases: [Case; N]) {
        for Case { name, events, expected } in cases {
            let mut recorder = Recorder::new(Sample::default());
            let failed = events.iter().find_map(|&(at, data)| recorder.event(at, data).err());
            let sample = match failed {
                Some(error) => recorder.fail(error),
                None => recorder.finish(),
            };
            assert_eq!(sample, expected, "{name}");
        }
    }

    #[test]
    fn chunks_become_times_and_counts() {
        let cases = [
            Case {
                name: "completions with usage",
                events: &[
                    (0.5, r#"{"choices": [{"text": "a", "finish_reason": null}]}"#),
                    (0.75, r#"{"choices": [{"text": ""}]}"#),
                    (1.0, r#"{"choices": [{"text": "bc"}]}"#),
                    (1.5, r#"{"choices": [{"text": "", "finish_reason": "length"}]}"#),
                    (
                        2.0,
                        r#"{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}}"#,
                    ),
                    (2.5, "[DONE]"),
                ],
                expected: Sample {
                    ttft: 0.5,
                    itls: vec![0.25, 0.25],
                    latency: 1.5,
                    text: "abc".to_owned(),
                    prompt_tokens: 7,
                    cached_tokens: Some(4),
                    counted_tokens: Some(5),
                    chunks: 3,
                    ..Sample::default()
                },
            },
            Case {
                name: "chat: the opening chunk is no token, reasoning is, and is not the answer",
                events: &[
                    (0.25, r#"{"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#),
                    (0.5, r#"{"choices": [{"delta": {"reasoning_content": "hm"}}]}"#),
                    (1.0, r#"{"choices": [{"delta": {"content": "4"}}]}"#),
                    (
                        1.25,
                        r#"{"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": {"cache_n": 3}}"#,
                    ),
                    (1.5, "[DONE]"),
                ],
                expected: Sample {
                    ttft: 0.5,
                    itls: vec![0.5],
                    latency: 1.25,
                    text: "4".to_owned(),
                    cached_tokens: Some(3),
                    chunks: 2,
                    ..Sample::default()
                },
            },
        ];
        check(cases);
    }

    #[test]
    fn streams_may_be_empty_or_break() {
        let cases = [
            Case {
                name: "an empty answer",
                events: &[(1.0, r#"{"choices": [{"text": "", "finish_reason": "stop"}]}"#)],
                expected: Sample { ttft: 1.0, latency: 1.0, ..Sample::default() },
            },
            Case {
                name: "cut off",
                events: &[(1.0, r#"{"choices": [{"text": "a"}]}"#)],
                expected: Sample {
                    ttft: 1.0,
                    latency: 1.0,
                    text: "a".to_owned(),
                    chunks: 1,
                    ..error("the stream broke off after 1 chunks of text")
                },
            },
            Case {
                name: "an error in the stream",
                events: &[(1.0, r#"{"error": {"message": "out of memory"}}"#)],
                expected: error("out of memory"),
            },
        ];
        check(cases);
        let odd = Recorder::default().event(0.0, "<html>").expect_err("no JSON");
        assert!(odd.contains("<html>"), "{odd}");
    }

    #[test]
    fn time_per_token_leaves_the_first_out() {
        let sample = |counted_tokens, chunks| Sample {
            ttft: 0.5,
            latency: 2.5,
            counted_tokens,
            chunks,
            ..Sample::default()
        };
        assert_eq!(sample(Some(5), 3).tpot(), Some(0.5));
        assert_eq!(sample(None, 3).tpot(), Some(1.0));
        assert_eq!(sample(Some(1), 3).tpot(), None);
        assert_eq!(sample(None, 0).tpot(), None);
    }
}
