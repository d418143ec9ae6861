//! What becomes of single schemas; those that libraries write are in `tests/text/schemas.rs`.

use super::*;
use crate::grammar::lark::compiles;

/// The fitted schema with what it needs, and what was left out.
fn fitted(schema: &Json) -> (Json, Vec<String>) {
    let Fitted { schema, definitions, mut left_out } = fit(schema);
    let whole = relax(&schema, &definitions, "", &mut left_out, compiles);
    (whole, left_out.0)
}

#[test]
fn what_says_nothing_is_dropped_and_what_is_spelled_otherwise_is_translated() {
    let string = || json!({"type": "string"});
    let table = [
        (json!({"title": "T", "description": "d", "default": 1, "x-order": 2}), json!({})),
        (json!({"type": "array", "uniqueItems": false, "minContains": 0}), json!({"type": "array"})),
        (
            json!({"type": "array", "uniqueItems": true, "maxItems": 1}),
            json!({"type": "array", "maxItems": 1}),
        ),
        (json!({"contains": {"type": "string"}, "minContains": 0}), json!({})),
        (json!({"propertyNames": string(), "type": "object"}), json!({"type": "object"})),
        (json!({"type": "string", "format": "color"}), string()),
        (json!({"type": "string", "format": "date"}), json!({"type": "string", "format": "date"})),
        (json!({"type": "STRING"}), string()),
        (json!({"type": "str"}), string()),
        (json!({"type": "any"}), json!({})),
        (json!({"type": ["string", "null", "string"]}), json!({"type": ["string", "null"]})),
        (json!("integer"), json!({"type": "integer"})),
        (json!({"type": "string", "nullable": true}), json!({"type": ["string", "null"]})),
        (json!({"enum": ["a"], "nullable": true}), json!({"enum": ["a", null]})),
        (
            json!({"const": "a", "type": "string", "nullable": true}),
            json!({"type": ["string", "null"], "enum": ["a", null]}),
        ),
        (json!({"allOf": [string()]}), json!({"allOf": [string()]})),
        (json!({"oneOf": [string(), {"type": "null"}]}), json!({"anyOf": [string(), {"type": "null"}]})),
        (
            json!({"items": [string()], "additionalItems": false}),
            json!({"items": false, "prefixItems": [string()]}),
        ),
        (json!({"properties": [], "required": null, "maxLength": 3.0}), json!({"maxLength": 3})),
        (
            json!({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": string()}),
            json!({"type": "object", "additionalProperties": false, "properties": {"a": string(), "b": string()}}),
        ),
        (
            json!({"type": "object", "propertyNames": {"pattern": "^x"}, "additionalProperties": string()}),
            json!({"type": "object", "additionalProperties": false, "patternProperties": {"^x": string()}}),
        ),
        (
            json!({"type": "object", "unevaluatedProperties": false, "properties": {}}),
            json!({"type": "object", "additionalProperties": false, "properties": {}}),
        ),
        (json!({"properties": {"a": {"not": {}}}}), json!({"properties": {"a": false}})),
    ];
    for (given, want) in table {
        assert_eq!(fitted(&given), (want, vec![]), "{given}");
    }
}

#[test]
fn what_no_grammar_can_follow_is_left_out_with_its_place() {
    let property = |schema: Json| json!({"type": "object", "properties": {"a": schema}});
    let table = [
        (
            property(json!({"type": "array", "uniqueItems": true})),
            property(json!({"type": "array"})),
            "properties.a.uniqueItems",
        ),
        (property(json!("the name of a city")), property(json!({})), "properties.a"),
        (property(json!(null)), property(json!({})), "properties.a"),
        (property(json!({"type": "date"})), property(json!({})), "properties.a.type"),
        (property(json!({"$ref": "https://example.com/x"})), property(json!({})), "properties.a.$ref"),
        (property(json!({"enum": "x"})), property(json!({})), "properties.a.enum"),
        (
            property(json!({"type": "string", "pattern": "(?<!x)y", "maxLength": 3})),
            property(json!({"type": "string", "maxLength": 3})),
            "properties.a.pattern",
        ),
        (
            property(json!({"type": "object", "properties": {"b": {}, "c": {}}, "maxProperties": 1})),
            property(json!({"type": "object", "properties": {"b": {}, "c": {}}})),
            "properties.a.maxProperties",
        ),
        (
            json!({"$ref": "#/definitions/A%20b", "definitions": {"A b": property(json!({"type": "string", "pattern": "(?<!x)y"}))}}),
            json!({"$ref": "#/$defs/A20b", "$defs": {"A20b": property(json!({"type": "string"}))}}),
            "$defs.A20b.properties.a.pattern",
        ),
        (
            json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            json!({"anyOf": [{"type": "integer"}, {"type": "number"}]}),
            "oneOf",
        ),
        (
            json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
            json!({"type": "object", "properties": {"a": false}}),
            "required",
        ),
        (
            json!({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}], "unevaluatedProperties": false}),
            json!({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}),
            "unevaluatedProperties",
        ),
    ];
    for (given, want, place) in table {
        assert_eq!(fitted(&given), (want, vec![place.to_owned()]), "{given}");
    }
}

#[test]
fn alternatives_that_differ_behind_references_are_enforced() {
    let tagged =
        |tag: &str| json!({"type": "object", "properties": {"t": {"const": tag}}, "required": ["t"]});
    let closed = |name: &str| json!({"type": "object", "properties": {name: {}}, "required": [name], "additionalProperties": false});
    let of = |parts: Json| json!({"oneOf": parts, "$defs": {"a": tagged("a"), "b": tagged("b")}});
    for (parts, is_exact) in [
        (json!([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]), true),
        (json!([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]), false),
        (json!([{"$ref": "#/$defs/a"}, {"type": "null"}, {"const": 3}]), true),
        (json!([{"const": 1}, {"const": 1.0}]), false),
        (json!([{"enum": ["a", "b"]}, {"enum": ["c"]}]), true),
        (json!([{"type": "string"}, {"enum": ["c", 1]}]), false),
        (json!([closed("a"), closed("b")]), true),
        (json!([{"anyOf": [{"type": "null"}, {"type": "string"}]}, {"type": "array"}]), true),
        (json!([{"allOf": [{"$ref": "#/$defs/a"}]}, {"$ref": "#/$defs/b"}]), true),
    ] {
        let left_out = fitted(&of(parts.clone())).1;
        assert_eq!(left_out.is_empty(), is_exact, "{parts}: {left_out:?}");
    }
    // A property that tells them apart is there, whatever its default says.
    let loose = |tag: &str| json!({"type": "object", "properties": {"t": {"const": tag, "default": tag}}});
    let discriminated = json!({"oneOf": [loose("a"), loose("b")], "discriminator": {"propertyName": "t"}});
    let (schema, left_out) = fitted(&discriminated);
    assert_eq!((left_out.len(), &schema["anyOf"][0]["required"]), (0, &json!(["t"])));
}

#[test]
fn a_tag_with_a_default_tells_alternatives_apart_wherever_it_is_declared() {
    let loose = |tag: &str, name: &str| json!({"type": "object", "properties": {name: {"const": tag, "default": tag}}});
    let tagged = |parts: Json, tag: &str| json!({"oneOf": parts, "discriminator": {"propertyName": tag}});
    let cat = || tagged(json!([loose("black", "color"), loose("white", "color")]), "color");
    for (schema, is_exact) in [
        (tagged(json!([{"allOf": [loose("a", "k")]}, {"allOf": [loose("b", "k")]}]), "k"), true),
        (tagged(json!([{"anyOf": [loose("a", "k"), loose("c", "k")]}, loose("b", "k")]), "k"), true),
        (tagged(json!([tagged(json!([loose("a", "k"), loose("c", "k")]), "k"), loose("b", "k")]), "k"), true),
        // The other alternative has none.
        (tagged(json!([cat(), loose("dog", "pet")]), "pet"), false),
        (tagged(json!([cat(), loose("black", "color")]), "color"), false),
        (
            json!({"oneOf": [{"type": "string", "nullable": true}, {"type": "integer", "nullable": true}]}),
            false,
        ),
        (json!({"oneOf": [{"type": "string", "nullable": true}, {"type": "integer"}]}), true),
        (json!({"oneOf": [{"const": [1]}, {"const": [1.0]}]}), false),
    ] {
        let (whole, left_out) = fitted(&schema);
        assert_eq!(left_out.is_empty(), is_exact, "{schema}: {left_out:?}");
        if is_exact && schema.get("discriminator").is_some() {
            let parts = whole["anyOf"].as_array().unwrap();
            assert!(parts.iter().all(|part| part["required"] == json!(["k"])), "{whole}");
        }
    }
}

#[test]
fn as_little_as_possible_is_left_out() {
    let object = |extra: Json| {
        let mut schema = json!({"type": "object"});
        schema.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        schema
    };
    let impossible =
        || json!({"$ref": "#/$defs/A", "type": "object", "properties": {"b": {}}, "required": ["b"]});
    let closed = || json!({"properties": {"a": {}}, "additionalProperties": false});
    for (schema, places) in [
        (object(json!({"additionalProperties": {"enum": [1]}, "minProperties": 3})), vec!["minProperties"]),
        (object(json!({"additionalProperties": {"enum": [1]}, "minProperties": 1})), vec![]),
        (object(json!({"required": ["a", "b"], "minProperties": 3})), vec![]),
        (object(json!({"required": ["a", "a"], "minProperties": 3})), vec!["minProperties"]),
        (object(json!({"properties": {"a": {}, "b": {}}, "required": ["a"], "minProperties": 1})), vec![]),
        (
            object(
                json!({"patternProperties": {"^[ab]$": {}}, "additionalProperties": false, "minProperties": 2}),
            ),
            vec!["minProperties"],
        ),
        (
            object(
                json!({"properties": {"item": impossible()}, "required": ["item"], "$defs": {"A": closed()}}),
            ),
            vec!["properties.item.required"],
        ),
        (
            object(
                json!({"patternProperties": {"^a": {"enum": [1, 2]}, "b$": {"enum": [2, 3]}}, "additionalProperties": false, "minProperties": 1}),
            ),
            vec!["patternProperties"],
        ),
        (
            object(
                json!({"patternProperties": {"(?<!x)y": {"enum": [1, 2]}}, "additionalProperties": false}),
            ),
            vec!["patternProperties", "additionalProperties"],
        ),
        (
            json!({"type": "integer", "multipleOf": 9007199254740993_u64, "minimum": 1, "maximum": 1e17}),
            vec!["multipleOf", "maximum"],
        ),
    ] {
        assert_eq!(fitted(&schema).1, places, "{schema}: {}", fitted(&schema).0);
    }
}

#[test]
fn multiples_of_fractions_between_bounds_are_listed() {
    let number = |extra: Json| {
        let mut schema = json!({"type": "number", "multipleOf": 0.1});
        schema.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        schema
    };
    for (schema, values) in [
        (number(json!({"minimum": 0.25, "maximum": 0.35})), json!([0.3])),
        (number(json!({"minimum": -0.1, "exclusiveMaximum": 0.2})), json!([-0.1, 0, 0.1])),
        (number(json!({"exclusiveMinimum": 0.3, "minimum": 0, "maximum": 0.5})), json!([0.4, 0.5])),
        (number(json!({"type": "integer", "multipleOf": 0.5, "minimum": 0.5, "maximum": 2})), json!([1, 2])),
        (number(json!({"minimum": 0, "maximum": 1e9})), Json::Null),
        (number(json!({"minimum": 0})), Json::Null),
        (number(json!({"minimum": 0, "maximum": 9, "multipleOf": 3})), Json::Null),
    ] {
        assert_eq!(fit(&schema).schema["enum"], values, "{schema}");
    }
}

#[test]
fn places_are_anybodys_text_and_are_kept_short() {
    let mut left_out = LeftOut::default();
    left_out.add(&format!("properties.a\u{1b}[2J{}", "x".repeat(5000)), "not");
    assert!(left_out.0[0].starts_with("properties.a?[2J") && left_out.0[0].chars().count() == PLACE_CHARS);
    (0..1000).for_each(|i| left_out.add(&i.to_string(), "not"));
    (0..1000).for_each(|i| left_out.add(&i.to_string(), "not"));
    assert_eq!((left_out.0.len(), left_out.0[LEFT_OUT_MAX].as_str()), (LEFT_OUT_MAX + 1, "and 977 more"));
}
