//! One answer: from a prompt through the session to text.

use std::sync::Arc;
use std::time::Duration;

use undine_core::{GenerateRequest, Origin, StopRules};
use undine_text::{IncludeStop, Piece, SpecialText, StreamOptions, StreamState, TextStream, ToolFormat};

use crate::error::Error;
use crate::interrupt;
use crate::open::{ModelText, Prompt};
use crate::sampling::Settings;
use crate::session::{Appetite, Generated, Session};

/// An answer, complete.
pub struct Answer {
    /// What the model said.
    pub text: String,
    /// What it thought before.
    pub reasoning: String,
    /// Tokens and times.
    pub numbers: Generated,
}

/// Generates an answer and hands each piece of it to `on_piece` as it comes.
///
/// # Errors
/// If the prompt does not fit the context; see [`too_long`].
pub fn answer(
    session: &mut Session,
    text: &ModelText,
    prompt: Prompt,
    settings: &Settings,
    mut on_piece: impl FnMut(&Piece) -> Result<(), Error>,
) -> Result<Answer, Error> {
    if let Some(message) = too_long(&prompt, session) {
        return Err(Error::refused(format!("{message}; shorten the prompt or raise --max-model-len")));
    }
    let room = session.context() - prompt.tokens.len() as u32;
    let options = StreamOptions {
        stop: settings.stop.clone(),
        include_stop: IncludeStop::No,
        // The markers of a tool call are control tokens: without them its text could not be told from prose.
        special: SpecialText::Keep,
        reasoning: prompt.reasoning,
        tools: None,
        tool_format: ToolFormat::Lfm2,
    };
    let mut stream = TextStream::new(Arc::clone(&text.tokenizer), options);
    let request = GenerateRequest {
        prompt: prompt.tokens,
        images: prompt.images,
        sampling: settings.for_answer(),
        logit_bias: prompt.forbidden.iter().map(|&token| (token, f32::NEG_INFINITY)).collect(),
        stop: StopRules {
            eos_tokens: text.eos.clone(),
            ..StopRules::after(settings.max_tokens.unwrap_or(room).min(room))
        },
        prompt_logprobs: None,
        origin: Origin::default(),
    };
    let mut answer = (String::new(), String::new());
    let mut pieces = Vec::new();
    let mut emit = |pieces: &mut Vec<Piece>| -> Result<(), Error> {
        for piece in pieces.drain(..) {
            match &piece {
                Piece::Content(text) => answer.0.push_str(text),
                Piece::Reasoning(text) => answer.1.push_str(text),
                // No tools are declared here, so calls stay as they are written.
                Piece::ToolCall { .. }
                | Piece::ToolArguments { .. }
                | Piece::ToolCut { .. }
                | Piece::ToolAborted { .. } => {}
            }
            on_piece(&piece)?;
        }
        Ok(())
    };
    let numbers = session.generate(request, interrupt::rearm(), |token| {
        if text.eos.contains(&token) {
            return Ok(Appetite::More);
        }
        let state = stream.push(token, &mut pieces);
        emit(&mut pieces)?;
        Ok(if state == StreamState::Running { Appetite::More } else { Appetite::Enough })
    })?;
    stream.finish(&mut pieces);
    emit(&mut pieces)?;
    let (text, reasoning) = answer;
    Ok(Answer { text, reasoning, numbers })
}

/// Why a prompt leaves no room for an answer, if it leaves none.
pub fn too_long(prompt: &Prompt, session: &Session) -> Option<String> {
    let (tokens, context) = (prompt.tokens.len(), session.context());
    (tokens >= context as usize)
        .then(|| format!("the prompt has {tokens} tokens and the context holds {context}, answer included"))
}

/// The numbers of an answer as text, one line.
pub fn describe(numbers: &Generated) -> String {
    let seconds = |time: Duration| time.as_secs_f64();
    let Generated { prompt_tokens, cached_tokens, completion_tokens, .. } = *numbers;
    let known = if cached_tokens > 0 { format!(" ({cached_tokens} known)") } else { String::new() };
    format!(
        "prompt {prompt_tokens} tokens{known}, first token after {:.3} s (prefill {:.1} tok/s); \
         answer {completion_tokens} tokens in {:.3} s (decode {:.1} tok/s)",
        seconds(numbers.time_to_first_token),
        numbers.prefill_speed(),
        seconds(numbers.decode_time),
        numbers.decode_speed(),
    )
}
