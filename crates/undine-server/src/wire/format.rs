//! The form an answer must have: OpenAI's `response_format`, vLLM's `structured_outputs` and its older
//! `guided_*`.

use serde_json::Value;
use undine_text::exact;
use undine_text::grammar::AnswerFormat;
use undine_text::tools::Strictness;

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, describe, mismatch};
use crate::wire::foreign_format::read_foreign;
use crate::wire::strangers::without_strangers;

/// Most texts of a choice.
const CHOICE_TEXTS_MAX: usize = 4096;

/// The fields of `structured_outputs`. All but the last have an older form of their own.
const KINDS: [&str; 5] = ["json", "regex", "choice", "grammar", "json_object"];
/// Hints about how vLLM works a format out: they do not change what is valid.
const IGNORED: &[&str] = &["guided_decoding_backend", "guided_whitespace_pattern"];
const STRUCTURED_IGNORED: &[&str] = &[
    "disable_fallback",
    "disable_any_whitespace",
    "disable_additional_properties",
    "whitespace_pattern",
    "_backend",
    "_backend_was_auto",
];

/// What an answer must look like, and the field that says so.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Format {
    pub(crate) rule: AnswerFormat,
    /// Path of the field, for errors that are found later.
    pub(crate) path: String,
}

/// Reads the one format of a request, if it has one.
pub(crate) fn read_format(fields: &mut Fields) -> ApiResult<Option<Format>> {
    const FORM: &str = "response_format";
    let form = fields.take(FORM).map(|value| read_form(FORM, value)).transpose()?;
    let mut found: Vec<Format> = form.flatten().into_iter().collect();
    if let Some(value) = fields.take("structured_outputs") {
        let mut inner = Fields::nested("structured_outputs", value)?;
        inner.ignore(STRUCTURED_IGNORED);
        inner.refuse(&[("structural_tag", "use `json`, `regex`, `choice`, `grammar` or `json_object`")])?;
        let formats = read_kinds(&mut inner, "", &KINDS)?;
        inner.finish()?;
        if formats.is_empty() {
            let expected = "expected one of json, regex, choice, grammar and json_object, found none";
            return Err(ApiError::field("structured_outputs", expected));
        }
        found.extend(formats);
    }
    found.extend(read_kinds(fields, "guided_", &KINDS[..4])?);
    fields.ignore(IGNORED);
    found.extend(read_foreign(fields)?);
    match found.as_slice() {
        [] | [_] => Ok(found.pop()),
        [first, second, ..] => {
            let message = format!("cannot be combined with `{}`; an answer has one format", first.path);
            Err(ApiError::field(second.path.clone(), message))
        }
    }
}

/// Reads what stands in `response_format`, or in another server's field of the same meaning at `path`.
pub(crate) fn read_form(path: &str, value: Value) -> ApiResult<Option<Format>> {
    if is_schema(&value) {
        let rule = schema_of(path, value, Strictness::BestEffort)?;
        return Ok(Some(Format { rule, path: path.to_owned() }));
    }
    let mut format = Fields::nested(path, value)?;
    let kind = format.string("type")?;
    let format_of = |rule, path: &str| Some(Format { rule, path: path.to_owned() });
    let rule = match kind.as_deref() {
        Some("text") => None,
        // As llama-server and others have it.
        Some("json_object") if format.has("schema") => Some(read_json_schema(&mut format)?),
        Some("json_object") => format_of(AnswerFormat::JsonObject, path),
        Some("json_schema") => Some(read_json_schema(&mut format)?),
        None if format.has("schema") || format.has("json_schema") => Some(read_json_schema(&mut format)?),
        Some("structural_tag") => {
            let advice = "use type \"json_schema\" or `structured_outputs`";
            return Err(ApiError::unsupported(&format.path("type"), advice));
        }
        other => {
            let found = other.map_or("nothing".to_owned(), |kind| describe(&kind.into()));
            let message = format!(
                "expected \"text\", \"json_object\", \"json_schema\" or a JSON schema, found {found}"
            );
            return Err(ApiError::field(format.path("type"), message));
        }
    };
    format.finish()?;
    Ok(rule)
}

/// `{"json_schema": {"schema": …, "strict": …}}`, the same without the inner object, as in the Responses API,
/// or with the schema in place of it. `strict` may stand beside any of them.
fn read_json_schema(format: &mut Fields) -> ApiResult<Format> {
    let own = format.path("json_schema");
    let inner = format.take("json_schema");
    let outer_strict = format.boolean("strict")?;
    let (path, schema, strict) = match inner {
        Some(schema) if is_schema(&schema) => (own, Some(schema), None),
        inner => {
            let mut nested = None;
            let fields = match inner {
                Some(inner) => nested.insert(Fields::nested(&own, inner)?),
                None => &mut *format,
            };
            let path = if fields.has("schema") { fields.path("schema") } else { format!("{own}.schema") };
            let schema = fields.take("schema");
            let strict = fields.boolean("strict")?;
            fields.ignore(&["name", "description"]);
            if let Some(nested) = nested {
                nested.finish()?;
            }
            (path, schema, strict)
        }
    };
    format.ignore(&["name", "description"]);
    let schema = schema.ok_or_else(|| ApiError::field(&path, "missing; expected a JSON schema"))?;
    let strict = strict.or(outer_strict) == Some(true);
    let strictness = if strict { Strictness::Strict } else { Strictness::BestEffort };
    Ok(Format { rule: schema_of(&path, schema, strictness)?, path })
}

/// Whether a value is a JSON schema, and not an object that has one.
pub(crate) fn is_schema(value: &Value) -> bool {
    const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];
    const KEYWORDS: [&str; 10] =
        ["properties", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "enum", "const", "items"];
    match value.get("type") {
        Some(Value::String(kind)) => TYPES.contains(&kind.as_str()),
        Some(Value::Array(_)) => true,
        Some(_) => false,
        None => KEYWORDS.iter().any(|keyword| value.get(*keyword).is_some()),
    }
}

/// Reads the fields that name a format, each with `prefix` in front.
fn read_kinds(fields: &mut Fields, prefix: &str, kinds: &[&str]) -> ApiResult<Vec<Format>> {
    let mut found = Vec::new();
    for &kind in kinds {
        let name = format!("{prefix}{kind}");
        let path = fields.path(&name);
        let rule = match kind {
            "json" => {
                let schema = fields.take(&name);
                schema.map(|schema| schema_of(&path, schema, Strictness::BestEffort)).transpose()?
            }
            "regex" => fields.string(&name)?.map(AnswerFormat::Regex),
            "grammar" => fields.string(&name)?.map(AnswerFormat::Grammar),
            "choice" => {
                let texts = fields.list(&name, CHOICE_TEXTS_MAX)?;
                texts.map(|texts| choice_of(&path, texts)).transpose()?
            }
            _ => fields.boolean(&name)?.filter(|wanted| *wanted).map(|_| AnswerFormat::JsonObject),
        };
        found.extend(rule.map(|rule| Format { rule, path }));
    }
    Ok(found)
}

/// A schema as an object, as `true` or `false`, or as the text of one. `"strict": true` within it is heeded:
/// no schema has such a keyword, and whoever writes it there means the same.
pub(crate) fn schema_of(path: &str, value: Value, strictness: Strictness) -> ApiResult<AnswerFormat> {
    let value = match value {
        Value::String(text) => exact::from_str(&text).map_err(|error| {
            ApiError::field(path, format!("expected a JSON schema, found text that is not JSON: {error}"))
        })?,
        value => value,
    };
    match value {
        Value::Object(mut schema) => {
            let strictness = match schema.get("strict") {
                Some(Value::Bool(strict)) => {
                    let within = if *strict { Strictness::Strict } else { strictness };
                    schema.shift_remove("strict");
                    within
                }
                _ => strictness,
            };
            Ok(AnswerFormat::JsonSchema(without_strangers(Value::Object(schema)), strictness))
        }
        Value::Bool(_) => Ok(AnswerFormat::JsonSchema(value, strictness)),
        other => Err(mismatch(path, "a JSON schema", &other)),
    }
}

fn choice_of(path: &str, texts: Vec<Value>) -> ApiResult<AnswerFormat> {
    if texts.is_empty() {
        return Err(ApiError::field(path, "expected at least one text, found an empty list"));
    }
    let text = |(i, value)| match value {
        Value::String(text) => Ok(text),
        other => Err(mismatch(&format!("{path}[{i}]"), "a string", &other)),
    };
    Ok(AnswerFormat::Choice(texts.into_iter().enumerate().map(text).collect::<ApiResult<_>>()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<Option<Format>, String> {
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        let format = read_format(&mut fields).map_err(|error| error.message)?;
        fields.finish().map_err(|error| error.message)?;
        Ok(format)
    }

    #[test]
    fn every_dialect_is_read() {
        let schema = json!({"type": "object"});
        let of_schema = || AnswerFormat::JsonSchema(json!({"type": "object"}), Strictness::BestEffort);
        let strict = || AnswerFormat::JsonSchema(json!({"type": "object"}), Strictness::Strict);
        let choice = || AnswerFormat::Choice(vec!["a".to_owned(), "b".to_owned()]);
        let cases = [
            (json!({}), None),
            (json!({"response_format": {"type": "text"}}), None),
            (json!({"structured_outputs": null, "guided_json": null}), None),
            (
                json!({"response_format": {"type": "json_object"}}),
                Some((AnswerFormat::JsonObject, "response_format")),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}}}),
                Some((strict(), "response_format.json_schema.schema")),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema, "strict": null}}}),
                Some((of_schema(), "response_format.json_schema.schema")),
            ),
            (
                json!({"response_format": {"type": "json_schema", "name": "n", "strict": true, "schema": schema}}),
                Some((strict(), "response_format.schema")),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": schema}}),
                Some((of_schema(), "response_format.json_schema")),
            ),
            (json!({"response_format": {"schema": schema}}), Some((of_schema(), "response_format.schema"))),
            (json!({"response_format": schema}), Some((of_schema(), "response_format"))),
            (
                json!({"response_format": {"type": "json_object", "schema": schema}}),
                Some((of_schema(), "response_format.schema")),
            ),
            (
                json!({"structured_outputs": {"json": schema.to_string()}}),
                Some((of_schema(), "structured_outputs.json")),
            ),
            (
                json!({"structured_outputs": {"json_object": true, "disable_fallback": true}}),
                Some((AnswerFormat::JsonObject, "structured_outputs.json_object")),
            ),
            (
                json!({"structured_outputs": {"regex": "a+"}}),
                Some((AnswerFormat::Regex("a+".to_owned()), "structured_outputs.regex")),
            ),
            (
                json!({"guided_json": schema, "guided_decoding_backend": "x"}),
                Some((of_schema(), "guided_json")),
            ),
            (json!({"guided_choice": ["a", "b"]}), Some((choice(), "guided_choice"))),
            (
                json!({"guided_grammar": "start: \"a\""}),
                Some((AnswerFormat::Grammar("start: \"a\"".to_owned()), "guided_grammar")),
            ),
        ];
        for (body, want) in cases {
            let want = want.map(|(rule, path)| Format { rule, path: path.to_owned() });
            assert_eq!(read(&body), Ok(want), "{body}");
        }
    }

    #[test]
    fn what_is_wrong_or_said_twice_is_named() {
        let cases = [
            (json!({"response_format": "json"}), "`response_format`: expected an object"),
            (json!({"response_format": {"type": "xml"}}), "`response_format.type`: expected \"text\", "),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "`response_format.json_schema.schema`: missing",
            ),
            (json!({"response_format": {"type": "text", "x": 1}}), "`response_format.x`: unknown field"),
            (json!({"structured_outputs": {}}), "`structured_outputs`: expected one of"),
            (
                json!({"structured_outputs": {"structural_tag": "x"}}),
                "`structured_outputs.structural_tag`: not",
            ),
            (json!({"guided_json": "{"}), "`guided_json`: expected a JSON schema, found text"),
            (json!({"guided_json": 3}), "`guided_json`: expected a JSON schema, found the number 3"),
            (json!({"guided_choice": []}), "`guided_choice`: expected at least one text"),
            (json!({"guided_choice": ["a", 1]}), "`guided_choice[1]`: expected a string"),
            (
                json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}),
                "`structured_outputs.choice`: cannot be combined with `structured_outputs.regex`",
            ),
            (
                json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}),
                "`guided_regex`: cannot be combined with `response_format`",
            ),
        ];
        for (body, want) in cases {
            let message = read(&body).unwrap_err();
            assert!(message.starts_with(want), "{body}: {message}");
        }
    }
}
