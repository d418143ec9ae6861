//! How a request wants its images cut: `mm_processor_kwargs`, and the `detail` of each image.

use serde_json::{Map, Value};
use undine_core::ImageSettings;

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, excerpt};

/// The field, and the flag of the same name.
pub(crate) const FIELD: &str = "mm_processor_kwargs";

/// How much of an image is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Detail {
    /// As the model's settings say: large images are split.
    #[default]
    Full,
    /// The whole image in one tile, never split.
    Low,
}

/// What a request says of the model's settings; what is absent stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImageOptions {
    min_tokens: Option<u32>,
    max_tokens: Option<u32>,
    min_tiles: Option<u32>,
    max_tiles: Option<u32>,
    splitting: Option<bool>,
    thumbnail: Option<bool>,
    background: Option<Background>,
}

/// What is seen through transparent pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Background {
    /// Nothing: opacity is dropped, as the reference does.
    Dropped,
    Colour([u8; 3]),
}

impl Detail {
    /// OpenAI's words for it.
    pub(crate) fn read(fields: &mut Fields) -> ApiResult<Self> {
        match fields.string("detail")?.as_deref() {
            None | Some("auto" | "high" | "original") => Ok(Self::Full),
            Some("low") => Ok(Self::Low),
            Some(other) => {
                let message = format!("expected low, high, original or auto, found {:?}", excerpt(other));
                Err(ApiError::field(fields.path("detail"), message))
            }
        }
    }
}

impl Background {
    /// vLLM's name for it, which has it among the server's options; `false` is the reference's way.
    fn read(fields: &mut Fields) -> ApiResult<Option<Self>> {
        const NAME: &str = "rgba_background_color";
        let Some(value) = fields.take(NAME).filter(|value| !value.is_null()) else { return Ok(None) };
        let colour = || {
            let [red, green, blue] = value.as_array()?.as_slice() else { return None };
            let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
            Some([byte(red)?, byte(green)?, byte(blue)?])
        };
        if value == Value::Bool(false) {
            return Ok(Some(Self::Dropped));
        }
        let message = || {
            format!(
                "expected [red, green, blue] of 0 to 255, or false to drop opacity, found {}",
                excerpt(&value.to_string())
            )
        };
        colour()
            .map(|colour| Some(Self::Colour(colour)))
            .ok_or_else(|| ApiError::field(fields.path(NAME), message()))
    }
}

impl ImageOptions {
    /// Those of a request.
    pub(crate) fn read(fields: &mut Fields) -> ApiResult<Self> {
        let Some(object) = fields.object(FIELD)? else { return Ok(Self::default()) };
        Self::of(object)
    }

    fn of(object: Map<String, Value>) -> ApiResult<Self> {
        let mut fields = Fields::nested(FIELD, Value::Object(object))?;
        let all = 1..=u32::MAX;
        let options = Self {
            min_tokens: fields.count("min_image_tokens", all.clone())?,
            max_tokens: fields.count("max_image_tokens", all.clone())?,
            min_tiles: fields.count("min_tiles", all.clone())?,
            max_tiles: fields.count("max_tiles", all)?,
            splitting: fields.boolean("do_image_splitting")?,
            thumbnail: fields.boolean("use_thumbnail")?,
            background: Background::read(&mut fields)?,
        };
        fields.finish()?;
        Ok(options)
    }

    /// The same options as the value of a flag.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub fn parse(object: Map<String, Value>) -> Result<Self, String> {
        Self::of(object).map_err(|error| error.message)
    }

    /// `settings` with these options. A limit alone takes the opposite one along if it would pass it.
    pub fn over(&self, settings: ImageSettings) -> ImageSettings {
        let (min_tokens, max_tokens) =
            limits((self.min_tokens, self.max_tokens), (settings.min_tokens, settings.max_tokens));
        let (min_tiles, max_tiles) = match self.splitting {
            Some(false) => (1, 1),
            _ => limits((self.min_tiles, self.max_tiles), (settings.min_tiles, settings.max_tiles)),
        };
        let thumbnail = self.thumbnail.unwrap_or(settings.thumbnail);
        let background = match self.background {
            None => settings.background,
            Some(Background::Dropped) => None,
            Some(Background::Colour(colour)) => Some(colour),
        };
        ImageSettings { min_tokens, max_tokens, min_tiles, max_tiles, thumbnail, background, ..settings }
    }

    /// The options of an image of this detail.
    pub(crate) fn at(self, detail: Detail) -> Self {
        match detail {
            Detail::Full => self,
            Detail::Low => Self { splitting: Some(false), ..self },
        }
    }
}

fn limits(asked: (Option<u32>, Option<u32>), settings: (u32, u32)) -> (u32, u32) {
    match asked {
        (None, None) => settings,
        (Some(min), None) => (min, settings.1.max(min)),
        (None, Some(max)) => (settings.0.min(max), max),
        (Some(min), Some(max)) => (min, max),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_change_what_they_name() {
        let model = ImageSettings::default();
        for (options, expected) in [
            (json!({}), model),
            (json!({"max_image_tokens": 128}), ImageSettings { max_tokens: 128, ..model }),
            (json!({"max_image_tokens": 32}), ImageSettings { min_tokens: 32, max_tokens: 32, ..model }),
            (json!({"min_image_tokens": 512}), ImageSettings { min_tokens: 512, max_tokens: 512, ..model }),
            (
                json!({"min_image_tokens": 9, "max_image_tokens": 5}),
                ImageSettings { min_tokens: 9, max_tokens: 5, ..model },
            ),
            (json!({"max_tiles": 1}), ImageSettings { min_tiles: 1, max_tiles: 1, ..model }),
            (json!({"rgba_background_color": null}), model),
            (
                json!({"rgba_background_color": [0, 128, 255]}),
                ImageSettings { background: Some([0, 128, 255]), ..model },
            ),
            (json!({"rgba_background_color": false}), ImageSettings { background: None, ..model }),
            (json!({"min_tiles": 4, "max_tiles": 4}), ImageSettings { min_tiles: 4, max_tiles: 4, ..model }),
            (
                json!({"do_image_splitting": false, "max_tiles": 4}),
                ImageSettings { min_tiles: 1, max_tiles: 1, ..model },
            ),
            (json!({"do_image_splitting": true}), model),
            (json!({"use_thumbnail": false}), ImageSettings { thumbnail: false, ..model }),
        ] {
            let read = ImageOptions::parse(options.as_object().unwrap().clone()).unwrap();
            assert_eq!(read.over(model), expected, "{options}");
            let low = ImageSettings { min_tiles: 1, max_tiles: 1, ..expected };
            assert_eq!(read.at(Detail::Low).over(model), low, "{options}");
        }
        for (options, part) in [
            (json!({"num_crops": 4}), "`mm_processor_kwargs.num_crops`: unknown field"),
            (
                json!({"rgba_background_color": [0, 256, 0]}),
                "`mm_processor_kwargs.rgba_background_color`: expected [red, green, blue] of",
            ),
            (
                json!({"rgba_background_color": "white"}),
                "`mm_processor_kwargs.rgba_background_color`: expected [red, green, blue] of",
            ),
            (json!({"max_tiles": 0}), "`mm_processor_kwargs.max_tiles`: expected a whole number"),
            (json!({"use_thumbnail": 1}), "`mm_processor_kwargs.use_thumbnail`: expected true or false"),
        ] {
            let message = ImageOptions::parse(options.as_object().unwrap().clone()).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
