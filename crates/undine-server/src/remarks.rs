//! What a response says beside its body: that something of the request was not heeded.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use undine_text::grammar::CompiledRules;

/// Names fields that nobody here knows.
pub(crate) const IGNORED_FIELDS: &str = "x-undine-ignored-fields";
/// Names places in schemas that are not enforced.
pub(crate) const RELAXED_SCHEMAS: &str = "x-undine-relaxed-schemas";
/// Longest value of such a header: what comes after is for the log.
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
            let mut value = names.join(", ").escape_default().to_string();
            // It is ASCII now.
            value.truncate(VALUE_BYTES_MAX);
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(HeaderName::from_static(header), value);
            }
        }
        response
    }
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
        assert!(value(RELAXED_SCHEMAS).starts_with("f: properties.tags.uniqueItems, xxx"));
        assert!(Remarks::default().on(Response::new(Body::empty())).headers().is_empty());
    }
}
