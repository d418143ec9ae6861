//! Tokens to text: what comes out, together, is what decoding all at once gives, whatever stops it. The input
//! is stop strings, a byte that occurs in no text, and tokens of one byte each, which are cut into tokens
//! anew for comparison.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use undine_fuzz::vocabulary::{ThinkKind, small};
use undine_text::{
    Bos, Detokenizer, IncludeStop, Piece, Reasoning, SpecialText, StreamOptions, TextStream, Tokenizer,
    ToolFormat,
};

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| small(ThinkKind::UserDefined));

/// Content and reasoning, each joined.
fn texts(ids: &[u32], options: &StreamOptions) -> [String; 2] {
    let mut stream = TextStream::new(Arc::clone(&TOKENIZER), options.clone());
    let mut pieces = Vec::new();
    for &id in ids {
        stream.push(id, &mut pieces);
    }
    stream.finish(&mut pieces);
    let mut texts = [String::new(), String::new()];
    for piece in pieces {
        match piece {
            Piece::Content(text) => texts[0].push_str(&text),
            Piece::Reasoning(text) => texts[1].push_str(&text),
            other => panic!("{other:?} without tools"),
        }
    }
    texts
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = undine_fuzz::parts(bytes);
    let stop = parts.next().unwrap_or_default();
    let stop: Vec<String> = stop
        .split(|byte| *byte == 0)
        .take(4)
        .map(|stop| String::from_utf8_lossy(stop).into_owned())
        .collect();
    let ids: Vec<u32> = parts.collect::<Vec<_>>().join(&0xfe).into_iter().map(u32::from).collect();
    let decoded = TOKENIZER.decode(&ids, SpecialText::Keep);
    let mut detokenizer = Detokenizer::new(Arc::clone(&TOKENIZER), SpecialText::Keep);
    let mut text = String::new();
    ids.iter().for_each(|&id| detokenizer.push(id, &mut text));
    detokenizer.finish(&mut text);
    assert_eq!(text, decoded);
    for reasoning in [Reasoning::Off, Reasoning::Split, Reasoning::SplitStartInside] {
        let options = |stop: &[String]| StreamOptions {
            stop: stop.to_vec(),
            include_stop: IncludeStop::No,
            special: SpecialText::Keep,
            reasoning,
            tools: None,
            tool_format: ToolFormat::Lfm2,
        };
        // The same text in other tokens: those of the tokenizer, where it is text at all.
        if !decoded.contains('\u{fffd}') {
            let again = TOKENIZER.encode(&decoded, Bos::Omit);
            assert_eq!(texts(&ids, &options(&stop)), texts(&again, &options(&stop)), "{decoded:?}");
        }
        if reasoning == Reasoning::Off {
            assert_eq!(texts(&ids, &options(&[]))[0], decoded);
            let [cut, _] = texts(&ids, &options(&stop));
            assert!(decoded.starts_with(&cut), "{cut:?} of {decoded:?}");
            assert!(
                stop.iter().all(|stop| stop.is_empty() || !cut.contains(stop.as_str())),
                "{cut:?} has {stop:?}"
            );
        }
    }
});
