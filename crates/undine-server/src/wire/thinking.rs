//! How long a model may think: `thinking_token_budget`, `reasoning_effort`,
//! `chat_template_kwargs.enable_thinking`.

use serde_json::{Map, Value};
use undine_text::{THINKING_SWITCHES, is_thinking_off};

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, describe, excerpt};

/// Tokens of thinking for `reasoning_effort: "minimal"`.
pub(crate) const MINIMAL_EFFORT_TOKENS: u32 = 128;
/// The same for "low".
pub(crate) const LOW_EFFORT_TOKENS: u32 = 512;
/// The same for "medium". "high" and above have no limit but `max_tokens`.
pub(crate) const MEDIUM_EFFORT_TOKENS: u32 = 2048;

/// How long a model may think.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Thinking {
    /// As the server was started.
    Default,
    /// Not at all: the answer comes at once.
    Off,
    /// At most so many tokens; more than none.
    Budget(u32),
    /// As long as the answer may be.
    Unlimited,
}

/// Reads the fields about thinking. Switches within `kwargs` stay there for the template to see, and win.
pub(crate) fn read_thinking(fields: &mut Fields, kwargs: &mut Map<String, Value>) -> ApiResult<Thinking> {
    let effort = read_effort(fields, kwargs)?;
    let budget = fields.integer("thinking_token_budget", -1..=i64::from(u32::MAX))?;
    for name in THINKING_SWITCHES {
        match kwargs.get(name) {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(other) => {
                let message = format!("expected true or false, found {}", describe(other));
                return Err(ApiError::field(format!("chat_template_kwargs.{name}"), message));
            }
        }
    }
    if is_thinking_off(kwargs) {
        return Ok(Thinking::Off);
    }
    Ok(match budget.map(u32::try_from) {
        None => effort.unwrap_or(Thinking::Default),
        Some(Ok(0)) => Thinking::Off,
        Some(Ok(tokens)) => Thinking::Budget(tokens),
        // vLLM writes "no limit" as -1.
        Some(Err(_)) => Thinking::Unlimited,
    })
}

fn read_effort(fields: &mut Fields, kwargs: &mut Map<String, Value>) -> ApiResult<Option<Thinking>> {
    let path = fields.path("reasoning_effort");
    let Some(effort) = fields.string("reasoning_effort")? else { return Ok(None) };
    let thinking = match effort.as_str() {
        "none" => Thinking::Off,
        "minimal" => Thinking::Budget(MINIMAL_EFFORT_TOKENS),
        "low" => Thinking::Budget(LOW_EFFORT_TOKENS),
        "medium" => Thinking::Budget(MEDIUM_EFFORT_TOKENS),
        "high" | "xhigh" | "max" => Thinking::Unlimited,
        other => {
            let message = format!("expected none, minimal, low, medium or high, found {:?}", excerpt(other));
            return Err(ApiError::field(path, message));
        }
    };
    // As in vLLM a template may look at it, too.
    kwargs.insert("reasoning_effort".to_owned(), effort.into());
    Ok(Some(thinking))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn budgets_efforts_and_switches() {
        let cases = [
            (json!({}), json!({}), Ok(Thinking::Default)),
            (json!({"thinking_token_budget": 7}), json!({}), Ok(Thinking::Budget(7))),
            (json!({"thinking_token_budget": 0}), json!({}), Ok(Thinking::Off)),
            (json!({"thinking_token_budget": -1}), json!({}), Ok(Thinking::Unlimited)),
            (
                json!({"thinking_token_budget": -2}),
                json!({}),
                Err("`thinking_token_budget`: expected a whole"),
            ),
            (json!({"reasoning_effort": "none"}), json!({}), Ok(Thinking::Off)),
            (json!({"reasoning_effort": "low"}), json!({}), Ok(Thinking::Budget(LOW_EFFORT_TOKENS))),
            (json!({"reasoning_effort": "high"}), json!({}), Ok(Thinking::Unlimited)),
            (
                json!({"reasoning_effort": "huge"}),
                json!({}),
                Err("`reasoning_effort`: expected none, minimal"),
            ),
            (
                json!({"reasoning_effort": "low", "thinking_token_budget": 9}),
                json!({}),
                Ok(Thinking::Budget(9)),
            ),
            (json!({"thinking_token_budget": 9}), json!({"enable_thinking": false}), Ok(Thinking::Off)),
            (json!({"thinking_token_budget": 9}), json!({"enable_thinking": true}), Ok(Thinking::Budget(9))),
            (json!({}), json!({"thinking": false}), Ok(Thinking::Off)),
            (
                json!({}),
                json!({"enable_thinking": 0}),
                Err("`chat_template_kwargs.enable_thinking`: expected"),
            ),
        ];
        for (body, kwargs, want) in cases {
            let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
            let mut map = kwargs.as_object().unwrap().clone();
            match (read_thinking(&mut fields, &mut map), want) {
                (Ok(thinking), Ok(want)) => assert_eq!(thinking, want, "{body} {kwargs}"),
                (Err(error), Err(want)) => assert!(error.message.starts_with(want), "{}", error.message),
                (result, _) => panic!("{body} {kwargs}: {result:?}"),
            }
        }
    }
}
