//! What a response says beside its body: that something of the request was not heeded.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use undine_text::grammar::CompiledRules;

/// Names fields that nobody here knows.
pub(crate) const IGNORED_FIELDS: &str = "x-undine-ignored-fields";
/// Names places in schemas that are not enforced.
pub(crate) const RELAXED_SCHEMAS: &str = "x-undine-relaxed-schemas";
/// Longest value of such a header but for its end, which says how many more names there are.
const VALUE_BYTES_MAX: usize = 1024;

/// What was not heeded.
#[derive(Default, Debug)]
pub(crate) struct Remarks {
    ignored: Vec<String>,
    pub(crate) relaxed: Vec<String>,
}

impl Remarks {
    pub(crate) fn new(ignored: Vec<String>, rules: Option<&CompiledRules>) -> Self {
        let relaxed = rules.map_or_else(Vec::new, |rules| rules.left_out().to_vec());
        Self { ignored, relaxed }
    }

    /// Puts them on the response, for whoever looks.
    pub(crate) fn on(&self, mut response: Response) -> Response {
        for (header, names) in [(IGNORED_FIELDS, &self.ignored), (RELAXED_SCHEMAS, &self.relaxed)] {
            if names.is_empty() {
                continue;
            }
            let value = listed(names);
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(HeaderName::from_static(header), value);
            }
        }
        response
    }
}

/// As many of the names as there is room for, and how many more there are.
fn listed(names: &[String]) -> String {
    let mut value = String::new();
    for (i, name) in names.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        let name = name.escape_default();
        let before = value.len();
        value.push_str(comma);
        value.extend(name);
        if value.len() > VALUE_BYTES_MAX {
            // It is ASCII. Of one name that is too long the beginning is told.
            value.truncate(if i == 0 { VALUE_BYTES_MAX } else { before });
            let more = names.len() - i.max(1);
            if more > 0 {
                value.push_str(&format!(", and {more} more"));
            }
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn headers_name_what_was_not_heeded() {
        let remarks = Remarks {
            ignored: vec!["mirostat".to_owned(), "t\u{e9}".to_owned()],
            relaxed: vec!["f: properties.tags.uniqueItems".to_owned(), "x".repeat(5000)],
        };
        let response = remarks.on(Response::new(Body::empty()));
        let value = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(value(IGNORED_FIELDS), "mirostat, t\\u{e9}");
        assert_eq!(value(RELAXED_SCHEMAS), "f: properties.tags.uniqueItems, and 1 more");
        let long = listed(&["x".repeat(5000), "y".to_owned()]);
        assert_eq!((long.len(), &long[VALUE_BYTES_MAX..]), (VALUE_BYTES_MAX + 12, ", and 1 more"));
        assert_eq!(listed(&["a".to_owned(), "and 3 more".to_owned()]), "a, and 3 more");
        assert!(Remarks::default().on(Response::new(Body::empty())).headers().is_empty());
    }
}
