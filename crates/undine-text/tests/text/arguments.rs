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
        // Alternatives that lead to themselves come to an end.
        (tree, "7", "\"7\""),
    ] {
        let parameters = json!({"type": "object", "properties": {"x": schema}});
        assert_eq!(arguments(&parameters, written), format!("{{\"x\":{expected}}}"), "{written}");
    }
}
