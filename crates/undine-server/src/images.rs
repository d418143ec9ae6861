//! The images of a request, from where its messages name them to their place among the tokens of the prompt.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use undine_core::{ImageKey, ImageSettings, Origin, PromptImage, TokenId};
use undine_image::prompt::{Encoded, Expanded, PLACEHOLDER, Placeholders, expand};
use undine_image::{ImagePipeline, PreparedImage};
use undine_text::Tokenizer;

use crate::media::{self, MediaError, Prepared};
use crate::places::Part;
use crate::prompt;
use crate::state::{App, Ready};
use crate::wire::chat::Conversation;
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::image_options::FIELD;
use crate::wire::parts::ImagePart;

/// Images of one request being got at once.
const GETTING_MAX: usize = 4;

/// What a server needs to know to take images.
pub(crate) struct Vision {
    pub(crate) settings: ImageSettings,
    /// The same for all requests, so that a conversation has the same text in every turn.
    pub(crate) placeholders: Placeholders,
}

/// The images of one request, in their order.
#[derive(Default)]
pub(crate) struct Images {
    list: Vec<Prepared>,
    /// Their place in memory.
    pub(crate) place: Option<Part>,
}

/// A prompt with its images, as the engine takes it.
pub(crate) struct Shown {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) images: Vec<PromptImage>,
    /// How many of the tokens stand for images.
    pub(crate) image_tokens: usize,
}

impl Vision {
    pub(crate) fn new(settings: ImageSettings) -> Self {
        let secret = u128::from(prompt::random()) << 64 | u128::from(prompt::random());
        Self { settings, placeholders: Placeholders::new(secret) }
    }
}

/// Gets and prepares what the messages show; takes the URLs out of `conversation`.
pub(crate) async fn gather(
    app: &App,
    ready: &Ready,
    origin: &Origin,
    conversation: &mut Conversation,
) -> ApiResult<Images> {
    if conversation.images.is_empty() {
        return Ok(Images::default());
    }
    let pipelines = pipelines(app, ready, conversation)?;
    let metrics = &ready.engine.metrics.images;
    let at_once = Arc::new(Semaphore::new(GETTING_MAX));
    let mut getting = JoinSet::new();
    for (i, (part, pipeline)) in conversation.images.iter_mut().zip(pipelines).enumerate() {
        let url = std::mem::take(&mut part.url);
        let (media, at_once, origin) = (Arc::clone(&app.media), Arc::clone(&at_once), origin.clone());
        metrics.received.inc();
        getting.spawn(async move {
            let _place = at_once.acquire().await.expect("the semaphore is never closed");
            (i, media.prepare(origin, url, pipeline).await)
        });
    }
    let mut list: Vec<Option<Prepared>> = conversation.images.iter().map(|_| None).collect();
    let mut tokens = 0;
    // What is still being got is given up at the first error.
    while let Some(got) = getting.join_next().await {
        let (i, prepared) = got.map_err(|_| ApiError::internal("getting an image failed"))?;
        let prepared = prepared.map_err(|error| {
            metrics.failed(error.reason());
            refusal(&conversation.images[i], &error)
        })?;
        metrics.prepared(prepared.found);
        tokens += u64::from(prepared.image.layout.image_tokens());
        if tokens > u64::from(ready.max_model_len) {
            let asked = "the images take more than that; send fewer or smaller ones, or ask for detail low";
            return Err(ApiError::context_length("messages", ready.max_model_len, asked));
        }
        list[i] = Some(prepared);
    }
    let list: Vec<Prepared> = list.into_iter().flatten().collect();
    let bytes = list.iter().map(|prepared| media::tile_bytes(&prepared.image)).sum();
    let place = app.media.hold(origin.tenant, bytes).ok_or_else(ApiError::too_many_images)?;
    Ok(Images { list, place: Some(place) })
}

/// Checks everything that can be known before an image is there.
fn pipelines(app: &App, ready: &Ready, conversation: &Conversation) -> ApiResult<Vec<ImagePipeline>> {
    let images = &conversation.images;
    let Some(vision) = &ready.vision else {
        let message = format!(
            "{} is not a multimodal model; send text, or ask a server with a vision model",
            ready.model.names[0]
        );
        return Err(ApiError::field(&images[0].path, message));
    };
    let most = app.media.config.images_max;
    if images.len() > most as usize {
        let message = format!(
            "At most {most} image(s) may be provided in one prompt, found {}; send fewer, or start the server with a \
             higher --limit-mm-per-prompt",
            images.len()
        );
        return Err(ApiError::field("messages", message));
    }
    let options = conversation.image_options;
    let of = |part: &ImagePart| {
        media::pipeline(&vision.settings, options.at(part.detail)).map_err(|message| {
            // The message begins with the name of the setting.
            let (name, message) = message.split_once(": ").unwrap_or(("", &message));
            ApiError::field(format!("{FIELD}.{name}"), message)
        })
    };
    images.iter().map(of).collect()
}

fn refusal(part: &ImagePart, error: &MediaError) -> ApiError {
    match error {
        MediaError::Internal => ApiError::internal(error.to_string()),
        _ => ApiError::field(&part.path, error.to_string()),
    }
}

impl Images {
    /// What stands for an image in the text.
    pub(crate) fn placeholder(&self, vision: Option<&Vision>, image: usize) -> String {
        let text = |vision: &Vision| vision.placeholders.text(self.list[image].key);
        vision.map_or_else(String::new, text)
    }

    /// Puts the images where their placeholders are.
    pub(crate) fn show(&self, tokenizer: &Tokenizer, encoded: Encoded) -> ApiResult<Shown> {
        let Encoded { tokens, images } = encoded;
        if images.is_empty() && self.list.is_empty() {
            return Ok(Shown { tokens, images: Vec::new(), image_tokens: 0 });
        }
        if images.len() != self.list.len() {
            let message = format!(
                "the chat template shows {} of the {} images; use the template of the model",
                images.len(),
                self.list.len()
            );
            return Err(ApiError::field("messages", message));
        }
        let find = |key: ImageKey| self.list.iter().find(|prepared| prepared.key == key);
        let shown: Option<Vec<(ImageKey, &PreparedImage)>> =
            images.iter().map(|&key| find(key).map(|prepared| (key, &*prepared.image))).collect();
        let shown = shown.ok_or_else(|| ApiError::field("messages", "an image is not of this request"))?;
        let text_tokens = tokens.iter().filter(|&&token| token != PLACEHOLDER).count();
        let expanded = expand(&tokens, &shown, |text| tokenizer.token_id(text));
        let Expanded { tokens, images } =
            expanded.map_err(|error| ApiError::field("messages", error.to_string()))?;
        Ok(Shown { image_tokens: tokens.len() - text_tokens, tokens, images })
    }
}
