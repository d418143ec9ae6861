//! Schemas as schemars writes them, one JSON object a line on standard output; `make.py` runs this.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{json, Value};

macro_rules! types {
    ($module:ident, $schemars:ident, $path:literal, $version:literal) => {
        mod $module {
            use std::collections::{BTreeMap, BTreeSet};

            use serde::{Deserialize, Serialize};
            use $schemars::JsonSchema;

            /// Where it is.
            #[derive(Serialize, Deserialize, JsonSchema)]
            #[schemars(crate = $path)]
            pub enum Place {
                Nowhere,
                Point(f64, f64),
                Named { name: String, #[serde(default)] zoom: u8 },
                Url(String),
            }

            #[derive(Serialize, Deserialize, JsonSchema)]
            #[schemars(crate = $path)]
            #[serde(tag = "type", rename_all = "snake_case")]
            pub enum Step {
                Go { to: Place },
                /// Some seconds.
                Wait { seconds: u32 },
                Stop,
            }

            #[derive(Serialize, Deserialize, JsonSchema)]
            #[schemars(crate = $path)]
            #[serde(untagged)]
            pub enum Loose {
                Number(i64),
                Text(String),
                List(Vec<Loose>),
            }

            #[derive(Serialize, Deserialize, JsonSchema)]
            #[schemars(crate = $path)]
            #[serde(rename_all = "kebab-case")]
            pub enum Level {
                Low,
                VeryHigh,
            }

            #[derive(Serialize, Deserialize, JsonSchema)]
            #[schemars(crate = $path)]
            #[serde(deny_unknown_fields)]
            pub struct Plan {
                pub steps: Vec<Step>,
                pub level: Level,
                pub note: Option<String>,
                #[serde(default)]
                pub tags: BTreeSet<String>,
            }

            #[derive(Serialize, Deserialize, JsonSchema)]
            #[schemars(crate = $path)]
            pub struct Tree {
                pub value: u64,
                pub children: Vec<Tree>,
                pub parent: Option<Box<Tree>>,
                pub by_name: BTreeMap<String, Tree>,
                pub pair: (String, i32),
                pub three: [f32; 3],
                pub letter: char,
            }

            #[derive(Serialize, Deserialize, JsonSchema)]
            #[schemars(crate = $path)]
            pub struct Base {
                pub id: i64,
                #[schemars(length(min = 1, max = 5), regex(pattern = "^[a-z]+$"))]
                pub code: String,
                #[schemars(range(min = 0, max = 10))]
                pub count: i32,
            }

            #[derive(Serialize, Deserialize, JsonSchema)]
            #[schemars(crate = $path)]
            pub struct Flat {
                #[serde(flatten)]
                pub base: Base,
                pub loose: Loose,
                #[serde(flatten)]
                pub rest: BTreeMap<String, serde_json::Value>,
            }

            pub fn all() -> Vec<(&'static str, serde_json::Value)> {
                let value = |schema| serde_json::to_value::<&_>(schema).unwrap();
                vec![
                    ("plan", value(&$schemars::schema_for!(Plan))),
                    ("tree", value(&$schemars::schema_for!(Tree))),
                    ("flat", value(&$schemars::schema_for!(Flat))),
                    ("place", value(&$schemars::schema_for!(Place))),
                ]
            }

            pub const FROM: &str = $version;
        }
    };
}

types!(new, schemars, "schemars", "schemars 1.0.4");
types!(before, old, "old", "schemars 0.8.22");

fn instances(name: &str) -> (Value, Value) {
    match name {
        "plan" => (
            json!([{"steps": [{"to": "Nowhere", "type": "go"}, {"seconds": 3, "type": "wait"}, {"type": "stop"}], "level": "very-high", "note": null, "tags": ["a"]},
                {"steps": [{"to": {"Point": [1.5, 2.0]}, "type": "go"}], "level": "low"}]),
            json!([{"steps": [{"type": "fly"}], "level": "low"}, {"steps": [], "level": "high"}, {"steps": []}, {"steps": [{"to": {"Point": [1.5]}, "type": "go"}], "level": "low"}]),
        ),
        "tree" => (
            json!([{"value": 1, "children": [], "parent": null, "by_name": {}, "pair": ["a", 1], "three": [1.0, 2.0, 3.0], "letter": "x"}]),
            json!([{"value": -1, "children": [], "parent": null, "by_name": {}, "pair": ["a", 1], "three": [1.0, 2.0, 3.0], "letter": "x"},
                {"value": 1, "children": [], "parent": null, "by_name": {}, "pair": ["a"], "three": [1.0, 2.0, 3.0], "letter": "x"},
                {"value": 1, "children": [], "parent": null, "by_name": {}, "pair": ["a", 1], "three": [1.0, 2.0], "letter": "x"}]),
        ),
        "flat" => (
            json!([{"id": 1, "code": "abc", "count": 3, "loose": [1, "x"]}]),
            json!([{"id": 1, "code": "ABC", "count": 3, "loose": 1}, {"id": 1, "code": "abc", "count": 30, "loose": 1}, {"id": 1, "code": "abc", "count": 3}]),
        ),
        _ => (json!(["Nowhere", {"Named": {"name": "x", "zoom": 3}}, {"Url": "x"}]), json!(["Somewhere", {"Named": {}}, {"Url": "x", "Point": [1.0, 2.0]}])),
    }
}

fn main() {
    for (from, schemas) in [(new::FROM, new::all()), (before::FROM, before::all())] {
        for (name, schema) in schemas {
            // The order of properties is the library's own: the instances that could not come in it are left
            // to the other library.
            let (valid, invalid) = instances(name);
            println!("{}", json!({"from": from, "name": name, "schema": schema, "valid": valid, "invalid": invalid}));
        }
    }
}
