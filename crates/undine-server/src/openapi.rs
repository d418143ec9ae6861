//! `GET /openapi.json`: the interface as an OpenAPI 3.1 document. `openapi.json` says what each route takes
//! and gives; tests hold it against the routes and against the fields that the wire types read.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};

use crate::state::App;

const DOCUMENT: &str = include_str!("openapi.json");
/// Names the schemas whose properties a schema takes over: both endpoints share most fields, and a schema
/// that closes itself (`additionalProperties: false`) cannot be composed in JSON Schema.
const WITH: &str = "x-with";

pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Json<Value> {
    Json(document(&app.config.root_path))
}

fn document(root_path: &str) -> Value {
    let mut document: Value = serde_json::from_str(DOCUMENT).expect("a test reads the document");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["servers"][0]["url"] = if root_path.is_empty() { "/" } else { root_path }.into();
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        compose(schemas);
    }
    document
}

fn compose(schemas: &mut Map<String, Value>) {
    let parts = schemas.clone();
    for schema in schemas.values_mut().filter_map(Value::as_object_mut) {
        let Some(Value::Array(names)) = schema.remove(WITH) else { continue };
        for name in names.iter().filter_map(Value::as_str) {
            let shared = parts[name]["properties"].as_object().cloned().unwrap_or_default();
            if let Some(own) = schema.get_mut("properties").and_then(Value::as_object_mut) {
                own.extend(shared);
            }
        }
    }
    schemas.retain(|name, _| !name.ends_with("Fields"));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::wire::chat::{ChatRequest, Conversation};
    use crate::wire::completion::CompletionRequest;
    use crate::wire::fields::{Fields, Strangers, asked_fields};

    #[test]
    fn every_route_is_in_the_document() {
        let document = document("");
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| (path.clone(), method.clone()))
            })
            .collect();
        let routed: BTreeSet<(String, String)> = crate::routes::table()
            .into_iter()
            .flat_map(|(path, methods, _)| {
                let path = path.replace("{*", "{");
                methods.iter().map(move |method| (path.clone(), (*method).to_owned()))
            })
            .collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(value: &Value, document: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    map.values().for_each(|value| check(value, document));
                }
                Value::Array(list) => list.iter().for_each(|value| check(value, document)),
                _ => {}
            }
        }
        let document = document("/llm");
        check(&document, &document);
        assert_eq!(document["servers"][0]["url"], "/llm");
        assert!(!document.to_string().contains(WITH));
    }

    /// The fields that a parser asks for, whatever the body.
    fn asked(parse: impl Fn(&[u8]), bodies: &[Value]) -> BTreeSet<String> {
        asked_fields(|| bodies.iter().for_each(|body| parse(body.to_string().as_bytes())))
            .into_iter()
            .filter(|path| !path.contains(['.', '[']))
            .collect()
    }

    #[test]
    fn every_field_that_is_read_is_in_the_document() {
        let document = document("");
        let described = |name: &str| -> BTreeSet<String> {
            let schema = &document["components"]["schemas"][name]["properties"];
            schema.as_object().unwrap().keys().cloned().collect()
        };
        let message = json!([{"role": "user", "content": "x"}]);
        let chat = asked(
            |body| drop(ChatRequest::parse(body)),
            &[json!({"messages": message}), json!({"messages": message, "max_completion_tokens": 5})],
        );
        assert_eq!(described("ChatCompletionRequest"), chat);
        let completion = asked(|body| drop(CompletionRequest::parse(body)), &[json!({"prompt": "x"})]);
        assert_eq!(described("CompletionRequest"), completion);
        let conversation = asked(
            |body| {
                drop(
                    Fields::parse(body)
                        .and_then(|mut fields| Conversation::read(&mut fields, &mut Strangers::default())),
                )
            },
            &[json!({"messages": message})],
        );
        let tokenize = described("TokenizeRequest");
        assert!(conversation.is_subset(&tokenize), "{:?}", conversation.difference(&tokenize));
    }
}
