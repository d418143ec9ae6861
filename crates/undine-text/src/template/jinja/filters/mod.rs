//! Jinja's filters.

mod lists;
mod pretty;
mod texts;
mod values;

use std::sync::Arc;

use super::calls::Given;
use super::eval::{Interpreter, Stop};
use super::value::Value;

pub type Filter = fn(&mut Interpreter<'_>, &Value, Given) -> Result<Value, Stop>;

const FILTERS: [(&str, Filter); 54] = [
    ("abs", values::abs),
    ("attr", values::attr),
    ("batch", lists::batch),
    ("capitalize", texts::capitalize),
    ("center", texts::center),
    ("count", values::length),
    ("d", values::default),
    ("default", values::default),
    ("dictsort", lists::dictsort),
    ("e", texts::escape),
    ("escape", texts::escape),
    ("filesizeformat", values::filesizeformat),
    ("first", lists::first),
    ("float", values::float),
    ("forceescape", texts::forceescape),
    ("format", texts::format),
    ("groupby", lists::groupby),
    ("indent", texts::indent),
    ("int", values::int),
    ("items", lists::items),
    ("join", lists::join),
    ("last", lists::last),
    ("length", values::length),
    ("list", lists::list),
    ("lower", texts::lower),
    ("map", lists::map),
    ("max", lists::max),
    ("min", lists::min),
    ("pprint", pretty::pprint),
    ("random", lists::random),
    ("reject", lists::reject),
    ("rejectattr", lists::rejectattr),
    ("replace", texts::replace),
    ("reverse", lists::reverse),
    ("round", values::round),
    ("safe", texts::safe),
    ("select", lists::select),
    ("selectattr", lists::selectattr),
    ("slice", lists::slice),
    ("sort", lists::sort),
    ("string", values::string),
    ("striptags", texts::striptags),
    ("sum", lists::sum),
    ("title", texts::title),
    ("tojson", values::tojson),
    ("trim", texts::trim),
    ("truncate", texts::truncate),
    ("unique", lists::unique),
    ("upper", texts::upper),
    ("urlencode", texts::urlencode),
    ("urlize", texts::urlize),
    ("wordcount", texts::wordcount),
    ("wordwrap", texts::wordwrap),
    ("xmlattr", texts::xmlattr),
];

pub fn find(name: &str) -> Option<Filter> {
    FILTERS.iter().find(|(known, _)| *known == name).map(|(_, filter)| *filter)
}

/// How an item is looked at: itself, or what lies along a path of attributes.
pub struct Getter {
    path: Vec<Value>,
    default: Option<Value>,
    case: Case,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Case {
    Kept,
    Ignored,
}

impl Getter {
    pub fn new(attribute: Option<Value>, default: Option<Value>, case: Case) -> Self {
        let path = match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(attribute) => match attribute.as_text() {
                Some(text) => text.split('.').map(part_of_path).collect(),
                None => vec![attribute],
            },
        };
        Self { path, default: default.filter(|default| !matches!(default, Value::None)), case }
    }

    pub fn get(&self, interpreter: &mut Interpreter<'_>, item: &Value) -> Result<Value, Stop> {
        let mut value = item.clone();
        for part in &self.path {
            value = interpreter.item(&value, part)?;
            if let (Value::Undefined(_), Some(default)) = (&value, &self.default) {
                value = default.clone();
            }
        }
        Ok(match (self.case, &value) {
            (Case::Ignored, Value::Text(text)) => Value::text(text.to_lowercase()),
            _ => value,
        })
    }
}

fn part_of_path(part: &str) -> Value {
    let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match part.parse::<i64>() {
        Ok(index) if digits => Value::Int(index),
        _ => Value::text(part),
    }
}

/// `case_sensitive` of a filter.
pub fn case(sensitive: Option<Value>) -> Case {
    if is_on(sensitive) { Case::Kept } else { Case::Ignored }
}

pub fn is_on(flag: Option<Value>) -> bool {
    flag.is_some_and(|flag| flag.is_true())
}

/// A value as text: what most filters of texts begin with.
fn soft(value: &Value) -> Result<Arc<str>, String> {
    match value.as_text() {
        Some(text) => Ok(Arc::clone(text)),
        None => super::print::string(value).map(Into::into),
    }
}
