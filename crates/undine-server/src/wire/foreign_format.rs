//! The form of an answer in the words of llama.cpp, SGLang, Ollama, TGI, Anthropic and the Responses API.
//! Each counts as a form of its own, so that two of them are refused as two of this dialect's are, and errors
//! name the field that was sent.

use serde_json::Value;
use undine_text::grammar::AnswerFormat;
use undine_text::tools::Strictness;

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, describe, is_neutral, mismatch};
use crate::wire::format::{Format, is_schema, read_form, schema_of};

/// Reads them all; a field that means something else there is left to be named as unknown.
pub(crate) fn read_foreign(fields: &mut Fields) -> ApiResult<Vec<Format>> {
    let mut found = Vec::new();
    for name in ["grammar", "ebnf", "regex", "json_schema"] {
        let Some(value) = fields.take_foreign(name).filter(|value| !is_neutral(value)) else { continue };
        found.extend(read_one(name, value)?);
    }
    let is_form = |value: &Value| value.is_object() || value == "json" || value == "json_object";
    for name in ["format", "output_format"] {
        let Some(value) = fields.take_foreign_if(name, is_form).filter(|value| !is_neutral(value)) else {
            continue;
        };
        found.extend(match value {
            Value::String(_) => Some(Format { rule: AnswerFormat::JsonObject, path: name.to_owned() }),
            value => read_form(name, value)?,
        });
    }
    // Beside the form the Responses API has how verbose the answer shall be, which is for the prompt to say.
    if let Some(Value::Object(text)) = fields.take_foreign_if("text", Value::is_object) {
        for (name, value) in text.into_iter().filter(|(_, value)| !value.is_null()) {
            let path = format!("text.{name}");
            match name.as_str() {
                "format" => found.extend(read_form(&path, value)?),
                "verbosity" => {}
                // Left, to be named as unknown.
                _ => fields.give(&path, &path, value)?,
            }
        }
    }
    Ok(found)
}

fn read_one(name: &str, value: Value) -> ApiResult<Option<Format>> {
    let format_of = |rule| Ok(Some(Format { rule, path: name.to_owned() }));
    match (name, value) {
        ("regex", Value::String(text)) => format_of(AnswerFormat::Regex(text)),
        ("grammar" | "ebnf", Value::String(text)) => format_of(AnswerFormat::Grammar(text)),
        ("grammar", value @ Value::Object(_)) => read_typed(value),
        // With its name around it, as it stands in `response_format`.
        ("json_schema", value) if value.get("schema").is_some() && !is_schema(&value) => {
            read_named(name, value)
        }
        ("json_schema", value) => format_of(schema_of(name, value, Strictness::BestEffort)?),
        (_, value) => Err(mismatch(name, "a string", &value)),
    }
}

/// A schema with its name.
fn read_named(path: &str, value: Value) -> ApiResult<Option<Format>> {
    let mut fields = Fields::nested(path, value)?;
    let path = fields.path("schema");
    let schema = fields.take("schema");
    let strict = fields.boolean("strict")? == Some(true);
    fields.ignore(&["name", "description"]);
    fields.finish()?;
    let schema = schema.ok_or_else(|| ApiError::field(&path, "missing; expected a JSON schema"))?;
    let strictness = if strict { Strictness::Strict } else { Strictness::BestEffort };
    Ok(Some(Format { rule: schema_of(&path, schema, strictness)?, path }))
}

/// TGI's `grammar`: `{"type": "json", "value": …}` and others like it.
fn read_typed(value: Value) -> ApiResult<Option<Format>> {
    let mut grammar = Fields::nested("grammar", value)?;
    let kind = grammar.take("type");
    let path = grammar.path("value");
    let value = grammar.take("value");
    grammar.finish()?;
    let value = value.ok_or_else(|| ApiError::field(&path, "missing; expected a schema or an expression"));
    let rule = match kind.as_ref().and_then(Value::as_str) {
        Some("regex") => match value? {
            Value::String(text) => AnswerFormat::Regex(text),
            other => return Err(mismatch(&path, "a string", &other)),
        },
        Some("json") => schema_of(&path, value?, Strictness::BestEffort)?,
        Some("json_schema") => return read_named(&path, value?),
        _ => {
            let found = kind.as_ref().map_or("nothing".to_owned(), describe);
            let message = format!("expected \"json\", \"regex\" or \"json_schema\", found {found}");
            return Err(ApiError::field("grammar.type", message));
        }
    };
    Ok(Some(Format { rule, path }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::format::read_format;

    fn read(body: &Value) -> Result<Option<Format>, String> {
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        read_format(&mut fields).map_err(|error| error.message)
    }

    #[test]
    fn forms_in_the_words_of_other_servers_are_enforced() {
        let schema = json!({"type": "object", "properties": {"a": {"const": 9007199254740993u64}}});
        let closed = json!({"type": "object", "properties": {"a": {"const": 9007199254740993u64}},
            "additionalProperties": false});
        // Numbers with more digits than doubles have are kept by their digits.
        let closed = undine_text::exact::from_str(&closed.to_string()).unwrap();
        let of_schema = |strictness| AnswerFormat::JsonSchema(closed.clone(), strictness);
        let best = || of_schema(Strictness::BestEffort);
        let regex = || AnswerFormat::Regex("a+".to_owned());
        for (body, rule, path) in [
            (json!({"format": "json"}), AnswerFormat::JsonObject, "format"),
            (json!({"format": schema}), best(), "format"),
            (json!({"format": {"schema": schema}}), best(), "format.schema"),
            (
                json!({"output_format": {"type": "json_schema", "schema": schema}}),
                best(),
                "output_format.schema",
            ),
            (
                json!({"text": {"format": {"type": "json_schema", "name": "n", "strict": true, "schema": schema}}}),
                of_schema(Strictness::Strict),
                "text.format.schema",
            ),
            (json!({"text": {"format": {"type": "json_object"}}}), AnswerFormat::JsonObject, "text.format"),
            (json!({"grammar": {"type": "json", "value": schema}}), best(), "grammar.value"),
            (json!({"grammar": {"type": "regex", "value": "a+"}}), regex(), "grammar.value"),
            (json!({"regex": "a+"}), regex(), "regex"),
            (json!({"ebnf": "root ::= \"a\""}), AnswerFormat::Grammar("root ::= \"a\"".to_owned()), "ebnf"),
            (json!({"json_schema": schema}), best(), "json_schema"),
            (json!({"json_schema": schema.to_string()}), best(), "json_schema"),
            (
                json!({"json_schema": {"name": "n", "schema": schema, "strict": true}}),
                of_schema(Strictness::Strict),
                "json_schema.schema",
            ),
        ] {
            let want = Format { rule, path: path.to_owned() };
            assert_eq!(read(&body), Ok(Some(want)), "{body}");
        }
        for body in [
            json!({"grammar": "", "json_schema": {}, "format": "", "regex": null}),
            json!({"text": {"format": {"type": "text"}, "verbosity": "low"}}),
            json!({"format": "markdown"}),
        ] {
            assert_eq!(read(&body), Ok(None), "{body}");
        }
    }

    #[test]
    fn an_answer_has_one_form_whoever_names_it() {
        let forms = [
            ("json_schema", json!({"type": "object"})),
            ("grammar", json!("root ::= \"a\"")),
            ("ebnf", json!("root ::= \"a\"")),
            ("regex", json!("a")),
            ("format", json!("json")),
            ("text", json!({"format": {"type": "json_object"}})),
            ("output_format", json!({"type": "object"})),
            ("structured_outputs", json!({"regex": "a"})),
            ("response_format", json!({"type": "json_object"})),
            ("guided_choice", json!(["a"])),
        ];
        for (one, first) in &forms {
            for (other, second) in forms.iter().filter(|(other, _)| other != one) {
                let body = json!({ *one: first, *other: second });
                let message = read(&body).unwrap_err();
                assert!(message.contains("an answer has one format"), "{body}: {message}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_as_it_was_sent() {
        for (body, want) in [
            (json!({"regex": 5}), "`regex`: expected a string"),
            (json!({"json_schema": "{"}), "`json_schema`: expected a JSON schema, found text"),
            (json!({"grammar": {"type": "xml", "value": 1}}), "`grammar.type`: expected \"json\""),
            (json!({"grammar": {"type": "regex"}}), "`grammar.value`: missing"),
            (json!({"grammar": {"type": "regex", "value": 1}}), "`grammar.value`: expected a string"),
            (json!({"text": {"format": {"type": "xml"}}}), "`text.format.type`: expected \"text\""),
            (json!({"format": {"type": "xml"}}), "`format.type`: expected \"text\""),
        ] {
            let message = read(&body).unwrap_err();
            assert!(message.starts_with(want), "{body}: {message}");
        }
    }
}
