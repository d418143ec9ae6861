//! What becomes of the arguments of a call: as written where their schema allows it, else what fits it.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use undine_text::tools::{ToolFormat, ToolParser, ToolSet};

use crate::tools::join;

/// The arguments of a call of `f`, whose parameters are given.
fn arguments(parameters: &Json, written: &str) -> String {
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
    let mut parser = ToolParser::new(Arc::new(ToolSet::new(&[tool]).unwrap()), ToolFormat::Lfm2);
    let mut pieces = Vec::new();
    parser.push(&format!("<|tool_call_start|>[f(x={written})]<|tool_call_end|>"), &mut pieces);
    parser.finish(&mut pieces);
    join(pieces).calls.remove(0).1
}

#[test]
fn alternatives_that_lead_back_are_looked_at_once() {
    // Each of them has all the others in it: sixteen deep there are more than anybody can count.
    let mut alternatives = vec![json!({"$ref": "#/$defs/x"}); 24];
    alternatives.push(json!({"properties": {"n": {"type": "integer"}}}));
    alternatives.push(json!({"type": "string"}));
    let x = json!({"anyOf": alternatives});
    let parameters = json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": x}});
    for (argument, expected) in [("7", "\"7\""), ("{'n': '7'}", "{\"n\":7}"), ("[1]", "\"[1]\"")] {
        assert_eq!(arguments(&parameters, argument), format!("{{\"x\":{expected}}}"), "{argument}");
    }
}

/// What an alternative that was not meant would make of a value is not what was written.
#[test]
fn arguments_that_fit_their_schema_stay_as_they_are() {
    let op = |op: &str, value: Json| json!({"type": "object", "properties": {"op": {"const": op}, "value": value}, "required": ["op", "value"]});
    let op_noted = |name: &str, value: Json| {
        let mut schema = op(name, value);
        schema["properties"]["note"] = json!({"type": "string", "nullable": true});
        schema
    };
    let (texts, number) =
        (json!({"enum": ["007", "42"]}), json!({"type": "number", "minimum": 1, "maximum": 9}));
    let pair = json!({"type": "array", "items": {"enum": ["1", "a"]}, "minItems": 2, "maxItems": 2});
    let three = json!({"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3});
    let by_pattern = json!({"type": "object", "patternProperties": {"^a$": {"enum": ["1"]}}, "additionalProperties": {"type": "integer"}});
    let tree = json!({"type": "string", "anyOf": [{"$ref": "#/properties/x"}]});
    for (schema, written, expected) in [
        (
            json!({"anyOf": [op("gt", number.clone()), op("eq", texts.clone())]}),
            r#"{"op": "eq", "value": "007"}"#,
            r#"{"op":"eq","value":"007"}"#,
        ),
        (
            json!({"oneOf": [op("eq", texts.clone()), op("gt", number.clone())]}),
            r#"{"op": "gt", "value": 9.00}"#,
            r#"{"op":"gt","value":9.00}"#,
        ),
        (
            json!({"anyOf": [op("eq", json!({"type": "string", "pattern": "^[0-9]{3}$"})), op("gt", number.clone())]}),
            r#"{"op": "eq", "value": "009"}"#,
            r#"{"op":"eq","value":"009"}"#,
        ),
        (
            json!({"anyOf": [op("eq", json!({"type": "array"})), op("gt", number.clone())]}),
            r#"{"op": "gt", "value": 9}"#,
            r#"{"op":"gt","value":9}"#,
        ),
        (json!({"anyOf": [three, pair]}), r#"["a", "1"]"#, r#"["a","1"]"#),
        (by_pattern.clone(), r#"{"a": "1"}"#, r#"{"a":"1"}"#),
        // What does not fit is made fit, by the alternative that can.
        (by_pattern, r#"{"a": "1", "b": "2"}"#, r#"{"a":"1","b":2}"#),
        (
            json!({"anyOf": [op("eq", texts), op("gt", number)]}),
            r#"{"op": "gt", "value": "3"}"#,
            r#"{"op":"gt","value":3}"#,
        ),
        // Those of the value's own kind come before text, which takes everything.
        (
            json!({"anyOf": [{"type": "string"}, {"type": "object", "properties": {"n": {"type": "integer"}}}]}),
            "{'n': '7'}",
            r#"{"n":7}"#,
        ),
        (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), "5.0", "5"),
        (
            json!({"anyOf": [op_noted("gt", json!({"type": "number"})), op_noted("eq", json!({"type": "string"}))]}),
            r#"{"op": "eq", "value": "007", "note": null}"#,
            r#"{"op":"eq","value":"007","note":null}"#,
        ),
        // What a pattern of another dialect says of a name is not known.
        (
            json!({"type": "object", "patternProperties": {"^(?!n_)": {"type": "string"}}, "additionalProperties": {"type": "integer"}}),
            r#"{"a": "1"}"#,
            r#"{"a":"1"}"#,
        ),
        // Alternatives that lead to themselves come to an end.
        (tree, "7", "\"7\""),
    ] {
        let parameters = json!({"type": "object", "properties": {"x": schema}});
        assert_eq!(arguments(&parameters, written), format!("{{\"x\":{expected}}}"), "{written}");
    }
}

/// More than can be looked at: nobody knows that it does not fit, so it stays as it was written.
#[test]
fn long_arguments_are_not_changed_for_want_of_time() {
    let op = |op: &str, value: Json| json!({"type": "object", "properties": {"op": {"const": op}, "value": value}, "required": ["op", "value"]});
    let texts = op("eq", json!({"type": "string", "pattern": "^[0-9]{3}$"}));
    let items = json!({"anyOf": [op("gt", json!({"type": "number"})), texts]});
    let parameters = json!({"type": "object", "properties": {"x": {"type": "array", "items": items}}});
    let list = json!(vec![json!({"op": "eq", "value": "009"}); 400]).to_string();
    assert_eq!(arguments(&parameters, &list), format!("{{\"x\":{list}}}"));
    // Many names and many patterns end soon.
    let patterns: serde_json::Map<String, Json> =
        (0..400).map(|i| (format!("^k{i}$"), json!({"type": "integer"}))).collect();
    let parameters =
        json!({"type": "object", "properties": {"x": {"type": "object", "patternProperties": patterns}}});
    let many: serde_json::Map<String, Json> = (0..400).map(|i| (format!("k{i}"), json!("1"))).collect();
    let found: Json = serde_json::from_str(&arguments(&parameters, &Json::Object(many).to_string())).unwrap();
    assert_eq!((&found["x"]["k0"], &found["x"]["k399"]), (&json!(1), &json!("1")));
}
