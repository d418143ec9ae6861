//! The parts of a message's content: text, and images in their places.

use serde_json::Value;

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers, excerpt, mismatch};
use crate::wire::image_options::Detail;
use crate::wire::past_parts::Past;

/// Most parts of one message's content.
const PARTS_MAX: usize = 1024;
/// What a content is.
const EXPECTED: &str = "a string or a list of parts";
/// Hints about caching, and what servers say beside a text.
const IGNORED: &[&str] = &["cache_control", "annotations", "citations", "logprobs", "id", "index", "uuid"];
/// Begins what is an image's address and not its bytes.
const SCHEMES: [&str; 4] = ["data:", "http:", "https:", "file:"];

/// An image that a message shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ImagePart {
    /// Where the request names it, such as `messages[0].content[1].image_url`.
    pub(crate) path: String,
    /// A `data:` URI or a URL, as it was given; bare base64 with the beginning of a `data:` URI.
    pub(crate) url: String,
    pub(crate) detail: Detail,
}

/// Where the parts of a content go that are no text.
pub(crate) struct Reading<'a> {
    pub(crate) images: &'a mut Vec<ImagePart>,
    pub(crate) strangers: &'a mut Strangers,
    /// Only in turns of the assistant.
    pub(crate) past: Option<Past>,
}

impl Reading<'_> {
    /// Takes in an image; its place in a content.
    fn show(&mut self, path: String, url: String, detail: Detail) -> Value {
        self.images.push(ImagePart { path, url, detail });
        Value::from(self.images.len() - 1)
    }
}

/// Reads a content. Text alone is a string, its parts joined by a newline, as in vLLM. With images it is a
/// list, as [`join`] takes it: strings, and for each image its index in `images`.
pub(crate) fn read_content(path: &str, content: Value, reading: &mut Reading<'_>) -> ApiResult<Value> {
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
    let before = reading.images.len();
    let mut read = Vec::with_capacity(parts.len());
    for (i, part) in parts.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let part = match &mut reading.past {
            Some(past) => past.lift(&path, part, reading.strangers)?,
            None => Some(part),
        };
        match part {
            None => {}
            Some(Value::String(text)) => read.push(Value::String(text)),
            Some(part) => read.push(read_part(&path, part, reading)?),
        }
    }
    if reading.images.len() > before {
        return Ok(Value::Array(read));
    }
    let texts: Vec<&str> = read.iter().filter_map(Value::as_str).collect();
    Ok(texts.join("\n").into())
}

/// Ollama's `images` of a message: base64, or anything that an image part may be. Their places.
pub(crate) fn read_images(fields: &mut Fields, reading: &mut Reading<'_>) -> ApiResult<Vec<Value>> {
    let own = fields.path("images");
    let list = fields.list("images", PARTS_MAX)?.unwrap_or_default();
    let mut places = Vec::with_capacity(list.len());
    for (i, image) in list.into_iter().enumerate() {
        let path = format!("{own}[{i}]");
        places.push(match image {
            Value::String(text) => reading.show(path, with_scheme(text, ""), Detail::default()),
            part @ Value::Object(_) => read_part(&path, part, reading)?,
            other => return Err(mismatch(&path, "base64 of an image", &other)),
        });
    }
    Ok(places)
}

/// What may be an address, or base64 of an image of this type.
fn with_scheme(text: String, media_type: &str) -> String {
    let begins =
        |scheme: &&str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    if SCHEMES.iter().any(begins) {
        return text;
    }
    format!("data:{media_type};base64,{text}")
}

fn read_part(path: &str, part: Value, reading: &mut Reading<'_>) -> ApiResult<Value> {
    let mut part = Fields::nested(path, part)?;
    let type_path = part.path("type");
    let kind = part.string("type")?;
    let read = match kind.as_deref() {
        Some("text" | "input_text" | "output_text" | "refusal") => read_text(&mut part),
        // Without a type, as vLLM understands it too.
        Some("image_url" | "input_image") => read_image(&mut part, reading),
        None if part.has("image_url") => read_image(&mut part, reading),
        Some("image") => read_plain_image(&mut part, reading),
        Some(kind @ ("video_url" | "input_video" | "video")) => Err(ApiError::unsupported(
            &type_path,
            &format!("the model sees no {kind}; send single images of it"),
        )),
        Some(kind @ ("input_audio" | "audio_url" | "audio")) => {
            Err(ApiError::unsupported(&type_path, &format!("the model hears no {kind}; send text")))
        }
        Some(kind @ ("file" | "input_file" | "document" | "image_embeds" | "image_pil")) => {
            let advice = format!("{kind} parts are not read; send an image as image_url, or text");
            Err(ApiError::unsupported(&type_path, &advice))
        }
        Some("tool_result") => {
            let advice = "send it as the content of a message of the role tool";
            Err(ApiError::unsupported(&type_path, advice))
        }
        Some(other) => {
            let message = format!("expected \"text\" or \"image_url\", found {:?}", excerpt(other));
            Err(ApiError::field(type_path, message))
        }
        None => Err(ApiError::field(type_path, "missing; expected \"text\" or \"image_url\"")),
    }?;
    part.ignore(IGNORED);
    part.leave(reading.strangers);
    Ok(read)
}

fn read_text(part: &mut Fields) -> ApiResult<Value> {
    let text = match part.string("text")? {
        Some(text) => Some(text),
        None => part.string("refusal")?,
    };
    text.map(Value::String).ok_or_else(|| ApiError::field(part.path("text"), "missing; expected a string"))
}

/// `image_url` is an object with the URL, or the URL itself.
fn read_image(part: &mut Fields, reading: &mut Reading<'_>) -> ApiResult<Value> {
    let path = part.path("image_url");
    let (url, detail) = match part.take("image_url") {
        Some(Value::String(url)) => (Some(url), Detail::read(part)?),
        Some(object @ Value::Object(_)) => {
            let mut object = Fields::nested(&path, object)?;
            let read = (object.string("url")?, Detail::read(&mut object)?);
            object.ignore(IGNORED);
            object.leave(reading.strangers);
            read
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
    Ok(reading.show(path, url, detail))
}

/// `{"type": "image"}`: with `image` or `url`, as Hugging Face's templates have it, with `source`, as
/// Anthropic has it, or with `data` or `base64`, as tools of the Model Context Protocol give it.
fn read_plain_image(part: &mut Fields, reading: &mut Reading<'_>) -> ApiResult<Value> {
    let detail = Detail::read(part)?;
    for name in ["image", "url", "image_url"] {
        if let Some(url) = part.take(name) {
            let path = part.path(name);
            let url = match url {
                Value::String(url) => url,
                Value::Object(object) => {
                    let mut object = Fields::nested(&path, Value::Object(object))?;
                    let url = object.string("url")?;
                    object.leave(reading.strangers);
                    url.ok_or_else(|| ApiError::field(object_url(&path), "missing; expected a string"))?
                }
                other => return Err(mismatch(&path, "a URL, a data: URI or base64", &other)),
            };
            return Ok(reading.show(path, url, detail));
        }
    }
    let path = part.path("source");
    if let Some(source) = part.take("source") {
        let mut source = Fields::nested(&path, source)?;
        let kind = source.string("type")?;
        let url = match kind.as_deref() {
            Some("url") => source.string("url")?,
            Some("base64") | None => read_bytes(&mut source)?,
            Some(other) => {
                let message = format!("expected base64 or url, found {:?}", excerpt(other));
                return Err(ApiError::field(source.path("type"), message));
            }
        };
        source.leave(reading.strangers);
        let url = url.ok_or_else(|| ApiError::field(&path, "missing; expected data or url"))?;
        return Ok(reading.show(path, url, detail));
    }
    let path = if part.has("data") { part.path("data") } else { part.path("base64") };
    match read_bytes(part)? {
        Some(url) => Ok(reading.show(path, url, detail)),
        None => {
            let message = "missing; expected a data: URI or the URL of an image in image, url or image_url";
            Err(ApiError::field(part.path("image"), message))
        }
    }
}

fn object_url(path: &str) -> String {
    format!("{path}.url")
}

/// Base64 and its type.
fn read_bytes(fields: &mut Fields) -> ApiResult<Option<String>> {
    let mut media_type = None;
    for name in ["media_type", "mimeType", "mime_type"] {
        media_type = media_type.or(fields.string(name)?);
    }
    let mut data = None;
    for name in ["data", "base64"] {
        data = data.or(fields.string(name)?);
    }
    Ok(data.map(|data| with_scheme(data, media_type.as_deref().unwrap_or_default())))
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
        let mut strangers = Strangers::default();
        let mut reading = Reading { images: &mut images, strangers: &mut strangers, past: None };
        let content = read_content("c", content, &mut reading).map_err(|error| error.message)?;
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
            (
                json!([{"type": "image", "image": "data:x"}, {"type": "image", "url": "u"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AQID"}},
                    {"type": "image", "source": {"type": "url", "url": "v"}},
                    {"type": "image", "data": "AQID", "mimeType": "image/webp"},
                    {"type": "image", "base64": "AQID"},
                    {"type": "image_url", "image_url": {"url": "w", "detail": "original"}}]),
                "[0][1][2][3][4][5][6]",
                [
                    "data:x",
                    "u",
                    "data:image/png;base64,AQID",
                    "v",
                    "data:image/webp;base64,AQID",
                    "data:;base64,AQID",
                    "w",
                ]
                .map(full)
                .to_vec(),
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
                "`c[0].image_url.detail`: expected low, high, original or auto, found \"fine\"",
            ),
            (
                json!({"type": "video_url", "video_url": {"url": "u"}}),
                "`c[0].type`: not supported yet; the model sees no",
            ),
            (json!({"type": "input_audio"}), "`c[0].type`: not supported yet; the model hears no"),
            (json!({"type": "file"}), "`c[0].type`: not supported yet; file parts"),
            (json!({"type": "image"}), "`c[0].image`: missing"),
            (json!({"type": "image", "image": 3}), "`c[0].image`: expected a URL"),
            (json!({"type": "image", "url": {}}), "`c[0].url.url`: missing"),
            (
                json!({"type": "image", "source": {"type": "file", "file_id": "x"}}),
                "`c[0].source.type`: expected base64 or url",
            ),
            (json!({"type": "image", "source": {"type": "base64"}}), "`c[0].source`: missing; expected data"),
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
