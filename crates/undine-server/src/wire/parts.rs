//! The parts of a message's content: text, and images in their places.

use serde_json::Value;

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, excerpt, mismatch};
use crate::wire::image_options::Detail;

/// Most parts of one message's content.
const PARTS_MAX: usize = 1024;
/// What a content is.
const EXPECTED: &str = "a string or a list of parts";

/// An image that a message shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ImagePart {
    /// Where the request names it, such as `messages[0].content[1].image_url`.
    pub(crate) path: String,
    /// A `data:` URI or a URL, as it was given.
    pub(crate) url: String,
    pub(crate) detail: Detail,
}

/// Reads a content. Text alone is a string, its parts joined by a newline, as in vLLM. With images it is a
/// list, as [`join`] takes it: strings, and for each image its index in `images`.
pub(crate) fn read_content(path: &str, content: Value, images: &mut Vec<ImagePart>) -> ApiResult<Value> {
    let parts = match content {
        Value::String(_) => return Ok(content),
        Value::Array(parts) if parts.len() <= PARTS_MAX => parts,
        Value::Array(parts) => {
            return Err(ApiError::field(
                path,
                format!("expected at most {PARTS_MAX} parts, found {}", parts.len()),
            ));
        }
        other => return Err(mismatch(path, EXPECTED, &other)),
    };
    let before = images.len();
    let mut read = Vec::with_capacity(parts.len());
    for (i, part) in parts.into_iter().enumerate() {
        read.push(match part {
            Value::String(text) => Value::String(text),
            part => read_part(&format!("{path}[{i}]"), part, images)?,
        });
    }
    if images.len() > before {
        return Ok(Value::Array(read));
    }
    let texts: Vec<&str> = read.iter().filter_map(Value::as_str).collect();
    Ok(texts.join("\n").into())
}

fn read_part(path: &str, part: Value, images: &mut Vec<ImagePart>) -> ApiResult<Value> {
    let mut part = Fields::nested(path, part)?;
    let type_path = part.path("type");
    let kind = part.string("type")?;
    match kind.as_deref() {
        Some("text" | "input_text" | "output_text" | "refusal") => read_text(&mut part),
        // Without a type, as vLLM understands it too.
        Some("image_url" | "input_image") => read_image(&mut part, images),
        None if part.has("image_url") => read_image(&mut part, images),
        Some(kind @ ("video_url" | "input_video" | "video")) => Err(ApiError::unsupported(
            &type_path,
            &format!("the model sees no {kind}; send single images of it"),
        )),
        Some(kind @ ("input_audio" | "audio_url")) => {
            Err(ApiError::unsupported(&type_path, &format!("the model hears no {kind}; send text")))
        }
        Some(kind @ ("file" | "image_embeds" | "image_pil" | "image")) => {
            let advice = format!("{kind} parts are not read; send an image as image_url, or text");
            Err(ApiError::unsupported(&type_path, &advice))
        }
        Some(other) => {
            let message = format!("expected \"text\" or \"image_url\", found {:?}", excerpt(other));
            Err(ApiError::field(type_path, message))
        }
        None => Err(ApiError::field(type_path, "missing; expected \"text\" or \"image_url\"")),
    }
}

fn read_text(part: &mut Fields) -> ApiResult<Value> {
    let text = match part.string("text")? {
        Some(text) => Some(text),
        None => part.string("refusal")?,
    };
    text.map(Value::String).ok_or_else(|| ApiError::field(part.path("text"), "missing; expected a string"))
}

/// `image_url` is an object with the URL, or the URL itself.
fn read_image(part: &mut Fields, images: &mut Vec<ImagePart>) -> ApiResult<Value> {
    let path = part.path("image_url");
    let (url, detail) = match part.take("image_url") {
        Some(Value::String(url)) => (Some(url), Detail::read(part)?),
        Some(object @ Value::Object(_)) => {
            let mut object = Fields::nested(&path, object)?;
            (object.string("url")?, Detail::read(&mut object)?)
        }
        None => (None, Detail::default()),
        Some(other) => return Err(mismatch(&path, "an object with the field url, or a URL", &other)),
    };
    let url = url.ok_or_else(|| {
        ApiError::field(
            &path,
            "missing; expected {\"url\": \"data:image/png;base64,…\"} or the URL of an image",
        )
    })?;
    images.push(ImagePart { path, url, detail });
    Ok(Value::from(images.len() - 1))
}

/// A content as one text, with `placeholder` in the place of each image. Nothing comes between the parts, as
/// in the templates of vision models.
pub(crate) fn join(content: &Value, placeholder: impl Fn(usize) -> String) -> String {
    let text = |part: &Value| match part {
        Value::String(text) => text.clone(),
        part => part.as_u64().map_or_else(String::new, |image| placeholder(image as usize)),
    };
    match content {
        Value::Array(parts) => parts.iter().map(text).collect(),
        content => text(content),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(content: Value) -> Result<(Value, Vec<ImagePart>), String> {
        let mut images = Vec::new();
        let content = read_content("c", content, &mut images).map_err(|error| error.message)?;
        Ok((content, images))
    }

    #[test]
    fn images_keep_their_places() {
        let full = |url: &str| (url.to_owned(), Detail::Full);
        let cases = [
            (json!("a"), "a", vec![]),
            (json!([{"type": "text", "text": "a"}, "b"]), "a\nb", vec![]),
            (json!([]), "", vec![]),
            (
                json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}, "b", "c"]),
                "a[0]bc",
                vec![full("u")],
            ),
            (
                json!([{"type": "image_url", "image_url": "u"}, {"type": "input_image", "image_url": "v", "detail": "low"},
                    {"image_url": {"url": "w", "detail": "auto"}}, {"image_url": "x"}]),
                "[0][1][2][3]",
                vec![full("u"), ("v".to_owned(), Detail::Low), full("w"), full("x")],
            ),
        ];
        for (content, text, images) in cases {
            let (read, found) = read(content.clone()).unwrap();
            assert_eq!(join(&read, |i| format!("[{i}]")), text, "{content}");
            let found: Vec<_> = found.into_iter().map(|image| (image.url, image.detail)).collect();
            assert_eq!(found, images, "{content}");
        }
    }

    #[test]
    fn wrong_parts_name_their_place() {
        for (part, message) in [
            (json!({"type": "image_url"}), "`c[0].image_url`: missing"),
            (json!({"type": "image_url", "image_url": {}}), "`c[0].image_url`: missing"),
            (
                json!({"type": "image_url", "image_url": 3}),
                "`c[0].image_url`: expected an object with the field url",
            ),
            (
                json!({"type": "image_url", "image_url": {"url": 3}}),
                "`c[0].image_url.url`: expected a string",
            ),
            (
                json!({"type": "image_url", "image_url": {"url": "u", "detail": "fine"}}),
                "`c[0].image_url.detail`: expected low, high or auto, found \"fine\"",
            ),
            (
                json!({"type": "video_url", "video_url": {"url": "u"}}),
                "`c[0].type`: not supported yet; the model sees no",
            ),
            (json!({"type": "input_audio"}), "`c[0].type`: not supported yet; the model hears no"),
            (json!({"type": "file"}), "`c[0].type`: not supported yet; file parts"),
            (json!({"type": "smell"}), "`c[0].type`: expected \"text\" or \"image_url\", found \"smell\""),
            (json!({"text": "a"}), "`c[0].type`: missing"),
            (json!({"type": "text"}), "`c[0].text`: missing"),
            (json!(3), "`c[0]`: expected an object"),
        ] {
            let found = read(json!([part])).unwrap_err();
            assert!(found.contains(message), "{part}: {found}");
        }
    }
}
