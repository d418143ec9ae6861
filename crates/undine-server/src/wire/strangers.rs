//! Properties that a schema does not speak of.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

/// Most sets of parts that are looked through; a schema with more is left as it is.
const GROUPS_MAX: usize = 1000;
/// Most parts that are looked at, over all groups.
const PARTS_MAX: usize = 100_000;

/// Schemas by where they are in memory.
type Places = HashSet<*const Value>;

/// The schema, with objects that declare properties restricted to these where nothing is said about others:
/// what OpenAI's strict mode demands and vLLM assumes. JSON Schema itself would allow any others, and weights
/// that are asked for two keys would be free to go on with a third. Parts that see one object stay as they
/// are (those of `allOf`, what `$ref` leads to beside `properties`, ..): each would forbid what the others
/// declare.
pub(crate) fn without_strangers(mut schema: Value) -> Value {
    let mut composed = Vec::new();
    find_composed(&schema, &mut composed);
    if let Some(shared) = shared_parts(&schema, composed) {
        close(&mut schema, &shared);
    }
    schema
}

/// Finds the schemas whose keywords and parts speak of one object more than once.
fn find_composed<'a>(schema: &'a Value, composed: &mut Vec<Vec<&'a Value>>) {
    match schema {
        Value::Object(map) => {
            if voices(map) > 1 {
                composed.push(vec![schema]);
            }
            map.values().for_each(|part| find_composed(part, composed));
        }
        Value::Array(list) => list.iter().for_each(|part| find_composed(part, composed)),
        _ => {}
    }
}

/// How often a schema speaks of its object. One part of `allOf` alone is a reference with a remark, as
/// pydantic once wrote it.
fn voices(map: &Map<String, Value>) -> usize {
    const OWN: [&str; 10] = [
        "properties",
        "required",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "if",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedProperties",
    ];
    let own = usize::from(OWN.iter().any(|keyword| map.contains_key(*keyword)));
    let all = map.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
    let others = ["$ref", "$dynamicRef", "anyOf", "oneOf"];
    own + all + others.iter().filter(|keyword| map.contains_key(**keyword)).count()
}

/// The parts of schemas that see one object with others; `None` if there are too many to tell.
fn shared_parts<'a>(root: &'a Value, mut groups: Vec<Vec<&'a Value>>) -> Option<Places> {
    let mut shared = Places::new();
    let mut seen = HashSet::new();
    let mut left_to_look_at = PARTS_MAX;
    while let Some(group) = groups.pop() {
        let mut key: Vec<*const Value> = group.iter().map(|part| std::ptr::from_ref(*part)).collect();
        key.sort_unstable();
        if !seen.insert(key) {
            continue;
        }
        if seen.len() > GROUPS_MAX {
            return None;
        }
        let mut parts = Places::new();
        let mut left = group;
        let mut children: BTreeMap<&str, Vec<&'a Value>> = BTreeMap::new();
        while let Some(part) = left.pop() {
            if !parts.insert(part) {
                continue;
            }
            left_to_look_at = left_to_look_at.checked_sub(1)?;
            for (keyword, value) in part.as_object().into_iter().flatten() {
                match (keyword.as_str(), value) {
                    ("$ref" | "$dynamicRef", Value::String(target)) => left.push(target_of(root, target)?),
                    ("anyOf" | "oneOf" | "allOf", Value::Array(parts)) => left.extend(parts),
                    ("if" | "then" | "else", part) => left.push(part),
                    ("properties", Value::Object(named)) => {
                        named.iter().for_each(|(name, child)| children.entry(name).or_default().push(child));
                    }
                    // Should a property be called so, the two are looked at together, which only opens more.
                    ("items" | "additionalProperties", child) => {
                        children.entry(keyword).or_default().push(child)
                    }
                    _ => {}
                }
            }
        }
        shared.extend(parts);
        // A property of several parts is one value, too.
        groups.extend(children.into_values().filter(|children| children.len() > 1));
    }
    Some(shared)
}

/// What a reference leads to; `None` if it has a name or an address, which are not looked for here.
fn target_of<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

fn close(schema: &mut Value, shared: &Places) {
    /// Keywords beside which `properties` may not be all that an object can have.
    const OTHERS: [&str; 9] = [
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "propertyNames",
        "anyOf",
        "oneOf",
        "$ref",
        "if",
        "not",
    ];
    let is_shared = shared.contains(&std::ptr::from_ref(schema));
    let Value::Object(map) = schema else { return };
    for (keyword, value) in map.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(schemas)) => {
                schemas.values_mut().for_each(|schema| close(schema, shared));
            }
            ("items" | "additionalProperties", schema) => close(schema, shared),
            ("prefixItems" | "anyOf" | "oneOf" | "allOf", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(|schema| close(schema, shared));
            }
            _ => {}
        }
    }
    let is_open = is_shared || !declares_all(map) || OTHERS.iter().any(|keyword| map.contains_key(*keyword));
    if !is_open {
        map.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
}

/// Whether there are properties, and no others are required.
fn declares_all(map: &Map<String, Value>) -> bool {
    let Some(properties) = map.get("properties") else { return false };
    let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    required.filter_map(Value::as_str).all(|name| properties.get(name).is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strangers_are_kept_out() {
        let object = |extra: Value| {
            let mut schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
            schema.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            schema
        };
        let closed = || object(json!({"additionalProperties": false}));
        for (schema, expected) in [
            (json!(true), json!(true)),
            (json!({"type": "object"}), json!({"type": "object"})),
            (object(json!({})), closed()),
            (object(json!({"additionalProperties": true})), object(json!({"additionalProperties": true}))),
            (object(json!({"patternProperties": {}})), object(json!({"patternProperties": {}}))),
            (object(json!({"anyOf": [object(json!({}))]})), object(json!({"anyOf": [object(json!({}))]}))),
            (json!({"anyOf": [object(json!({}))]}), json!({"anyOf": [closed()]})),
            (json!({"allOf": [object(json!({}))]}), json!({"allOf": [closed()]})),
            (
                json!({"allOf": [object(json!({})), object(json!({}))]}),
                json!({"allOf": [object(json!({})), object(json!({}))]}),
            ),
            (
                json!({"$ref": "#/$defs/x", "$defs": {"x": object(json!({}))}}),
                json!({"$ref": "#/$defs/x", "$defs": {"x": closed()}}),
            ),
            (json!({"items": object(json!({}))}), json!({"items": closed()})),
        ] {
            assert_eq!(without_strangers(schema.clone()), expected, "{schema}");
        }
    }

    #[test]
    fn what_is_too_much_to_look_at_is_left_open() {
        let parts = json!(vec![json!({}); 2000]);
        let groups: Vec<Value> =
            (0..100).map(|_| json!({"$ref": "#/$defs/x", "required": [], "properties": {}})).collect();
        let schema = json!({"prefixItems": groups, "$defs": {"x": {"anyOf": parts}}});
        assert_eq!(without_strangers(schema.clone()), schema);
    }

    #[test]
    fn parts_that_see_one_object_are_left_open() {
        let base = || json!({"properties": {"id": {}}, "required": ["id"]});
        let other = || json!({"properties": {"x": {"properties": {"y": {}}}}});
        let of = |schema: Value| {
            let mut schema = schema;
            schema["$defs"] = json!({"A": base(), "B": other()});
            schema
        };
        for schema in [
            of(json!({"$ref": "#/$defs/A", "properties": {"extra": {}}, "required": ["extra"]})),
            of(json!({"properties": {"v": {}}, "anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]})),
            of(json!({"type": "object", "allOf": [{"$ref": "#/$defs/A"}], "required": ["id", "b"]})),
            json!({"properties": {"a": {}}, "required": ["a", "z"]}),
            // One value that two parts declare.
            json!({"allOf": [
                {"properties": {"x": {"properties": {"a": {}}, "required": ["a"]}}},
                {"properties": {"x": {"properties": {"b": {}}, "required": ["b"]}}},
            ]}),
        ] {
            let open = without_strangers(schema.clone());
            for path in
                ["", "/$defs/A", "/allOf/0", "/allOf/1", "/allOf/0/properties/x", "/allOf/1/properties/x"]
            {
                let part = open.pointer(path).and_then(|part| part.get("additionalProperties"));
                assert_eq!(part, None, "{schema} at {path:?}");
            }
        }
        // What they hold is closed nevertheless, and so is what is used alone.
        let open =
            without_strangers(of(json!({"properties": {"v": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/B"})));
        for path in ["/$defs/A", "/$defs/B/properties/x"] {
            assert_eq!(open.pointer(path).unwrap()["additionalProperties"], false, "{path}");
        }
        assert_eq!(open["$defs"]["B"].get("additionalProperties"), None);
    }
}
