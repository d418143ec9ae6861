//! Reads a JSON object field by field. Each reader checks type and range and removes the field, so that what
//! is left at the end is unknown. `null` counts as absent everywhere, as OpenAI's clients use it.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use undine_text::exact;

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::weight;

/// Fields of a body that reach prompts and grammars, where numbers keep all their digits.
const EXACT: [&str; 12] = [
    "messages",
    "tools",
    "documents",
    "chat_template_kwargs",
    "response_format",
    "structured_outputs",
    "guided_json",
    "json_schema",
    "grammar",
    "format",
    "output_format",
    "text",
];
/// Longest excerpt of a wrong value that an error repeats, in characters.
const EXCERPT_CHARS: usize = 40;
/// Most fields that are named as not known.
const REST_MAX: usize = 8;

/// The unread fields of an object, and where the object is.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Path of the object with a trailing dot, empty for the body.
    prefix: String,
    /// Fields that stand here in place of those of another dialect, and what these were called.
    renamed: HashMap<String, String>,
}

/// Fields within a body that nobody knows: the first by their paths, the others by their number.
#[derive(Default)]
pub(crate) struct Strangers {
    named: Vec<String>,
    more: usize,
}

impl Strangers {
    pub(crate) fn add(&mut self, path: String) {
        if self.named.len() < REST_MAX {
            self.named.push(path);
        } else {
            self.more += 1;
        }
    }

    /// All of them, the last entry saying how many more there are than are named.
    pub(crate) fn told(mut self) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("and {} more", self.more));
        }
        self.named
    }
}

impl Fields {
    /// Parses a request body.
    pub(crate) fn parse(body: &[u8]) -> ApiResult<Self> {
        weight::check(body)?;
        let value: Value = exact::from_body(body, &EXACT)
            .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))?;
        match value {
            Value::Object(map) => Ok(Self { map, prefix: String::new(), renamed: HashMap::new() }),
            other => Err(ApiError::bad_request(format!(
                "expected the body to be a JSON object, found {}",
                describe(&other)
            ))),
        }
    }

    /// The object at `path`, which is not the body.
    pub(crate) fn nested(path: &str, value: Value) -> ApiResult<Self> {
        match value {
            Value::Object(map) => Ok(Self { map, prefix: format!("{path}."), renamed: HashMap::new() }),
            other => Err(mismatch(path, "an object", &other)),
        }
    }

    /// Full path of a field of this object, as the client wrote it.
    pub(crate) fn path(&self, name: &str) -> String {
        match self.renamed.get(name) {
            Some(sent) => sent.clone(),
            None => format!("{}{name}", self.prefix),
        }
    }

    /// Whether there is such a field.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Any value.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.note(name);
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// A boolean.
    pub(crate) fn boolean(&mut self, name: &str) -> ApiResult<Option<bool>> {
        self.take(name)
            .map(|value| value.as_bool().ok_or_else(|| mismatch(&self.path(name), "true or false", &value)))
            .transpose()
    }

    /// A string.
    pub(crate) fn string(&mut self, name: &str) -> ApiResult<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(mismatch(&self.path(name), "a string", &other)),
        }
    }

    /// A number within `range`.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> ApiResult<Option<f32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| mismatch(&self.path(name), "a number", &value))?;
        if !range.contains(&number) {
            let (low, high) = range.into_inner();
            let message = format!("expected a number from {low} to {high}, found {number}");
            return Err(ApiError::field(self.path(name), message));
        }
        Ok(Some(number as f32))
    }

    /// A number within `0..=high` that is not zero.
    pub(crate) fn positive(&mut self, name: &str, high: f64) -> ApiResult<Option<f32>> {
        let number = self.number(name, 0.0..=high)?;
        // An f64 above zero may still round to zero.
        if number == Some(0.0) {
            let message = format!("expected a number above 0 and at most {high}, found 0");
            return Err(ApiError::field(self.path(name), message));
        }
        Ok(number)
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> ApiResult<Option<i64>> {
        self.take(name).map(|value| integer(&self.path(name), &value, range)).transpose()
    }

    /// A whole number within `range`, which is within `u32`.
    pub(crate) fn count(&mut self, name: &str, range: RangeInclusive<u32>) -> ApiResult<Option<u32>> {
        let (low, high) = range.into_inner();
        let number = self.integer(name, i64::from(low)..=i64::from(high))?;
        Ok(number.map(|number| u32::try_from(number).expect("the range is within u32")))
    }

    /// The same, where -1 is no limit.
    pub(crate) fn limit(&mut self, name: &str, range: RangeInclusive<u32>) -> ApiResult<Option<u32>> {
        match self.map.get(name).and_then(Value::as_i64) {
            Some(-1) => Ok(self.take(name).map(|_| u32::MAX)),
            _ => self.count(name, range),
        }
    }

    /// A list of at most `entries_max` values.
    pub(crate) fn list(&mut self, name: &str, entries_max: usize) -> ApiResult<Option<Vec<Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= entries_max => Ok(Some(list)),
            Some(Value::Array(list)) => Err(ApiError::field(
                self.path(name),
                format!("expected at most {entries_max} entries, found {}", list.len()),
            )),
            Some(other) => Err(mismatch(&self.path(name), "a list", &other)),
        }
    }

    /// An object.
    pub(crate) fn object(&mut self, name: &str) -> ApiResult<Option<Map<String, Value>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(mismatch(&self.path(name), "an object", &other)),
        }
    }

    /// The value of a field of another dialect, which is not part of the interface's own.
    pub(crate) fn take_foreign(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// The same, if the value is what the other dialect has there.
    pub(crate) fn take_foreign_if(&mut self, name: &str, fits: fn(&Value) -> bool) -> Option<Value> {
        self.map.get(name).is_some_and(fits).then(|| self.take_foreign(name)).flatten()
    }

    /// Puts the value of `sent`, a field of another dialect, in the place of a field, if that says nothing
    /// yet. Errors name `sent` then. Two fields of other dialects that say different things are an error.
    pub(crate) fn give(&mut self, name: &str, sent: &str, value: Value) -> ApiResult<()> {
        match self.map.get(name).filter(|value| !value.is_null()) {
            None => {
                self.renamed.insert(name.to_owned(), sent.to_owned());
                self.map.insert(name.to_owned(), value);
                Ok(())
            }
            Some(there) if self.renamed.contains_key(name) && !is_same(there, &value) => {
                let message = format!("says something else than `{}`; send one of the two", self.path(name));
                Err(ApiError::field(sent, message))
            }
            Some(_) => Ok(()),
        }
    }

    /// Drops fields that have these values, which say no more than their absence.
    pub(crate) fn drop_neutral(&mut self, neutral: &[(&str, f64)]) {
        for (name, number) in neutral {
            if self.map.get(*name).is_some_and(|value| value.as_f64() == Some(*number)) {
                self.map.shift_remove(*name);
            }
        }
    }

    /// Refuses fields that would change the answer and are not built. Their neutral values pass:
    /// `false`, 0, and empty strings, lists and objects.
    pub(crate) fn refuse(&mut self, names: &[(&str, &str)]) -> ApiResult<()> {
        for (name, advice) in names {
            if self.take(name).is_some_and(|value| !is_neutral(&value)) {
                return Err(ApiError::unsupported(&self.path(name), advice));
            }
        }
        Ok(())
    }

    /// Drops fields that cannot change the answer.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.note(name);
            self.map.shift_remove(*name);
        }
    }

    #[cfg(not(test))]
    fn note(&self, _name: &str) {}

    /// Takes note of a field that is known, for [`asked_fields`].
    #[cfg(test)]
    fn note(&self, name: &str) {
        ASKED.with_borrow_mut(|asked| asked.push(format!("{}{name}", self.prefix)));
    }

    /// Leaves what was not read and says something to `strangers`.
    pub(crate) fn leave(self, strangers: &mut Strangers) {
        for (name, _) in self.map.iter().filter(|(_, value)| !is_neutral(value)) {
            strangers.add(self.path(&excerpt(name)));
        }
    }

    /// Refuses whatever was not read.
    pub(crate) fn finish(self) -> ApiResult<()> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => Err(unknown(&self.path(&excerpt(name)))),
        }
    }
}

/// The error for a field that nobody knows.
pub(crate) fn unknown(path: &str) -> ApiError {
    ApiError {
        code: Some("unknown_parameter"),
        ..ApiError::field(path, "unknown field; remove it or correct its name")
    }
}

/// Whether two values say the same: 5 is 5.0.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|number| other.as_f64() == Some(number))
}

/// Whether a value says no more than an absent one.
pub(crate) fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
thread_local! {
    static ASKED: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The paths of all fields that are asked for while something runs: what the parsers know.
#[cfg(test)]
pub(crate) fn asked_fields(run: impl FnOnce()) -> Vec<String> {
    ASKED.take();
    run();
    ASKED.take()
}

/// A whole number within `range`; `16.0` counts as whole.
pub(crate) fn integer(path: &str, value: &Value, range: RangeInclusive<i64>) -> ApiResult<i64> {
    const WHOLE_MAX: f64 = (1u64 << 53) as f64;
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() <= WHOLE_MAX;
    let number = match value {
        Value::Number(number) => {
            number.as_i64().or_else(|| number.as_f64().filter(whole).map(|number| number as i64))
        }
        _ => None,
    };
    let (low, high) = range.into_inner();
    match number {
        Some(number) if (low..=high).contains(&number) => Ok(number),
        _ if value.is_number() => {
            // To whom is below, a limit that is hardly one is not told.
            let is_below = value.as_f64().is_some_and(|number| number < low as f64);
            let to = match is_below && high >= i64::from(u32::MAX) {
                true => "on".to_owned(),
                false => format!("to {high}"),
            };
            Err(ApiError::field(path, format!("expected a whole number from {low} {to}, found {value}")))
        }
        _ => Err(mismatch(path, "a whole number", value)),
    }
}

/// The error for a value of the wrong type.
pub(crate) fn mismatch(path: &str, expected: &str, found: &Value) -> ApiError {
    ApiError::field(path, format!("expected {expected}, found {}", describe(found)))
}

/// What a value is, for people.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {:?}", excerpt(text)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(map) => match exact::of_fields(map) {
            Some(digits) => format!("the number {}", excerpt(digits)),
            None => "an object".to_owned(),
        },
    }
}

/// The beginning of a text from outside, short enough for an error.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn bodies_that_are_not_objects() {
        for (body, message) in [
            ("{\"a\": }", "line 1 column 7"),
            ("", "EOF"),
            ("[1]", "found a list of 1"),
            ("\"x\"", "found the string \"x\""),
        ] {
            let error = Fields::parse(body.as_bytes()).err().unwrap();
            assert!(error.message.contains(message), "{body}: {}", error.message);
        }
    }

    #[test]
    fn numbers_are_checked() {
        type Case = (&'static str, Result<Option<f32>, &'static str>);
        let cases: [Case; 6] = [
            (r#"{"t": 1}"#, Ok(Some(1.0))),
            (r#"{"t": null}"#, Ok(None)),
            (r#"{}"#, Ok(None)),
            (r#"{"t": "1"}"#, Err("`t`: expected a number, found the string \"1\"")),
            (r#"{"t": 3}"#, Err("`t`: expected a number from 0 to 2, found 3")),
            (r#"{"t": -0.5}"#, Err("`t`: expected a number from 0 to 2, found -0.5")),
        ];
        for (body, want) in cases {
            let got = fields(body).number("t", 0.0..=2.0);
            assert_eq!(got.map_err(|error| error.message), want.map_err(str::to_owned), "{body}");
        }
    }

    #[test]
    fn integers_are_checked() {
        type Case = (&'static str, Result<Option<u32>, &'static str>);
        let cases: [Case; 5] = [
            (r#"{"n": 3}"#, Ok(Some(3))),
            (r#"{"n": 3.0}"#, Ok(Some(3))),
            (r#"{"n": 3.5}"#, Err("`n`: expected a whole number from 1 to 4, found 3.5")),
            (
                r#"{"n": 18446744073709551615}"#,
                Err("`n`: expected a whole number from 1 to 4, found 18446744073709551615"),
            ),
            (r#"{"n": true}"#, Err("`n`: expected a whole number, found true")),
        ];
        for (body, want) in cases {
            let got = fields(body).count("n", 1..=4);
            assert_eq!(got.map_err(|error| error.message), want.map_err(str::to_owned), "{body}");
        }
    }

    #[test]
    fn what_is_left_is_unknown() {
        let mut fields = fields(r#"{"known": 1, "temprature": 2}"#);
        fields.ignore(&["known"]);
        let error = fields.finish().unwrap_err();
        assert_eq!(error.param.as_deref(), Some("temprature"));
        assert_eq!(error.code, Some("unknown_parameter"));
    }

    #[test]
    fn refused_fields_may_be_neutral() {
        let advice = [("x", "use y")];
        for body in [r#"{"x": false}"#, r#"{"x": null}"#, r#"{"x": 0}"#, r#"{"x": []}"#, "{}"] {
            assert!(fields(body).refuse(&advice).is_ok(), "{body}");
        }
        for body in [r#"{"x": true}"#, r#"{"x": 1}"#, r#"{"x": [1]}"#, r#"{"x": "y"}"#] {
            let error = fields(body).refuse(&advice).unwrap_err();
            assert_eq!(error.message, "`x`: not supported yet; use y", "{body}");
        }
    }
}
