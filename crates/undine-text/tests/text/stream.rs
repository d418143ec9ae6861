//! Stop strings and reasoning: by table, and independent of how the text is cut into tokens.

use std::sync::Arc;

use crate::common::{END, ThinkKind, small};
use proptest::prelude::*;
use undine_text::{
    Bos, IncludeStop, Piece, Reasoning, SpecialText, StreamOptions, StreamState, TextStream, Tokenizer,
    ToolFormat,
};

fn options(stop: &[&str], reasoning: Reasoning) -> StreamOptions {
    StreamOptions {
        stop: stop.iter().map(|&stop| stop.to_owned()).collect(),
        include_stop: IncludeStop::No,
        special: SpecialText::Skip,
        reasoning,
        tools: None,
        tool_format: ToolFormat::Lfm2,
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    content: String,
    reasoning: String,
    stop: Option<String>,
}

fn run(tokenizer: &Arc<Tokenizer>, options: StreamOptions, ids: &[u32]) -> Outcome {
    let mut stream = TextStream::new(Arc::clone(tokenizer), options);
    let (mut pieces, mut outcome) = (Vec::new(), Outcome::default());
    for &id in ids {
        if let StreamState::Stopped { stop } = stream.push(id, &mut pieces) {
            outcome.stop = Some(stop);
        }
    }
    stream.finish(&mut pieces);
    if let StreamState::Stopped { stop } = stream.finish(&mut pieces) {
        outcome.stop = Some(stop);
    }
    for piece in pieces {
        match piece {
            Piece::Content(text) => {
                assert!(!text.is_empty());
                outcome.content.push_str(&text);
            }
            Piece::Reasoning(text) => {
                assert!(!text.is_empty());
                outcome.reasoning.push_str(&text);
            }
            piece => panic!("no tools were declared: {piece:?}"),
        }
    }
    outcome
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// Text, stop strings, mode; content, reasoning, the stop string that appears.
type Row =
    (&'static str, &'static [&'static str], Reasoning, &'static str, &'static str, Option<&'static str>);

#[test]
fn table() {
    use Reasoning::{Off, Split, SplitStartInside};
    let table: [Row; 26] = [
        ("hello", &[], Off, "hello", "", None),
        ("a<think>b</think>c", &[], Off, "a<think>b</think>c", "", None),
        ("<think>why\n</think>\n\nbecause", &[], Split, "because", "why\n", None),
        ("no thinking", &[], Split, "no thinking", "", None),
        ("<think>never closed", &[], Split, "", "never closed", None),
        ("why</think> \n\tbecause", &[], SplitStartInside, "because", "why", None),
        ("<think>why</think>because", &[], SplitStartInside, "because", "why", None),
        ("all inside", &[], SplitStartInside, "", "all inside", None),
        ("a<think>b</think> c</think> d <think>e", &[], Split, "acd ", "be", None),
        ("1 < 2 </thin> <thinker> <", &[], Split, "1 < 2 </thin> <thinker> <", "", None),
        ("<think></think>\n \n", &[], Split, "", "", None),
        ("one STOP two", &["STOP"], Off, "one ", "", Some("STOP")),
        ("one STO two", &["STOP"], Off, "one STO two", "", None),
        ("one STO", &["STOP"], Off, "one STO", "", None),
        ("abc", &["abcd", "bc", "c"], Off, "a", "", Some("bc")),
        ("xabcd", &["abcd", "bc"], Off, "xa", "", Some("bc")),
        ("aab", &["ab", ""], Off, "a", "", Some("ab")),
        // A stop string ends the answer, not the thought, and the lines between them are neither.
        ("<think>x STOP y</think>z", &["STOP"], Split, "z", "x STOP y", None),
        ("x STOP y</think>z STOP", &["STOP"], SplitStartInside, "z ", "x STOP y", Some("STOP")),
        ("<think>1\n2\n</think>\n\n3\n4", &["\n"], Split, "3", "1\n2\n", Some("\n")),
        ("STOP<think>x", &["STOP"], Split, "", "", Some("STOP")),
        ("ST<think>x</think>OP", &["STOP"], Split, "STOP", "x", None),
        ("<think>x</think>y", &["y", "</think>"], Split, "", "x", Some("</think>")),
        ("x</think>y", &["x</think>", "y"], SplitStartInside, "", "", Some("x</think>")),
        ("<think>x</think>y", &["</think>"], Split, "", "x", Some("</think>")),
        ("語の<", &["の"], Split, "語", "", Some("の")),
    ];
    let tokenizer = small(ThinkKind::UserDefined);
    for (text, stop, reasoning, content, inside, stopped) in table {
        let expected = Outcome {
            content: content.to_owned(),
            reasoning: inside.to_owned(),
            stop: stopped.map(str::to_owned),
        };
        assert_eq!(run(&tokenizer, options(stop, reasoning), &bytes(text)), expected, "{text:?}");
        let whole = tokenizer.encode(text, Bos::Omit);
        assert_eq!(run(&tokenizer, options(stop, reasoning), &whole), expected, "{text:?} in tokens");
    }
}

#[test]
fn stop_strings_can_be_shown() {
    let tokenizer = small(ThinkKind::Control);
    let options = StreamOptions { include_stop: IncludeStop::Yes, ..options(&["STOP"], Reasoning::Off) };
    assert_eq!(run(&tokenizer, options, &bytes("one STOP two")).content, "one STOP");
}

#[test]
fn nothing_is_held_back_without_need() {
    let tokenizer = small(ThinkKind::Control);
    let mut stream = TextStream::new(tokenizer, options(&["STOP"], Reasoning::Split));
    let mut seen = Vec::new();
    for id in bytes("aSTxSTO<th!é") {
        let mut pieces = Vec::new();
        stream.push(id, &mut pieces);
        let text = pieces.into_iter().map(|piece| match piece {
            Piece::Content(text) | Piece::Reasoning(text) => text,
            piece => panic!("no tools were declared: {piece:?}"),
        });
        seen.push(text.collect::<String>());
    }
    assert_eq!(seen, ["a", "", "", "STx", "", "", "", "STO", "", "", "<th!", "", "é"]);
}

#[test]
fn control_tokens_are_skipped_but_markers_are_seen() {
    for kind in [ThinkKind::Control, ThinkKind::UserDefined] {
        let tokenizer = small(kind);
        let ids = [&[257][..], &bytes("in"), &[258], &bytes("\nout"), &[END]].concat();
        let outcome = run(&tokenizer, options(&[], Reasoning::Split), &ids);
        assert_eq!((outcome.reasoning.as_str(), outcome.content.as_str()), ("in", "out"), "{kind:?}");
        let kept = StreamOptions { special: SpecialText::Keep, ..options(&[], Reasoning::Split) };
        assert_eq!(run(&tokenizer, kept, &ids).content, "out<|im_end|>");
    }
}

#[test]
fn tokens_after_the_stop_are_ignored() {
    let tokenizer = small(ThinkKind::Control);
    let mut stream = TextStream::new(tokenizer, options(&["b"], Reasoning::Off));
    let mut pieces = Vec::new();
    let states: Vec<StreamState> = bytes("abc").into_iter().map(|id| stream.push(id, &mut pieces)).collect();
    let stopped = StreamState::Stopped { stop: "b".to_owned() };
    assert_eq!(states, [StreamState::Running, stopped.clone(), stopped]);
    assert_eq!(pieces, [Piece::Content("a".to_owned())]);
}

fn pieces_of_text() -> impl Strategy<Value = Vec<u32>> {
    let words = [
        "<think>", "</think>", "<th", "ink>", "</", "STOP", "STO", "語", "a", "b", " ", "\n", "<", ">",
        "aab", "é",
    ];
    let word = prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(bytes),
        1 => (0u32..270).prop_map(|id| vec![id]),
    ];
    proptest::collection::vec(word, 0..14).prop_map(|words| words.concat())
}

/// Cuts the bytes of `ids` into tokens of the vocabulary in another way, longest first at places chosen by
/// `seed`.
fn cut_again(tokenizer: &Tokenizer, ids: &[u32], mut seed: u64) -> Vec<u32> {
    let all: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).iter().copied()).collect();
    let (mut rest, mut cut) = (all.as_slice(), Vec::new());
    while let Some(&first) = rest.first() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let longer =
            (259..tokenizer.vocab_size() as u32).filter(|&id| rest.starts_with(tokenizer.token_bytes(id)));
        let id = longer.max_by_key(|&id| tokenizer.token_bytes(id).len()).filter(|_| seed >> 63 == 1);
        let id = id.unwrap_or(u32::from(first));
        rest = &rest[tokenizer.token_bytes(id).len()..];
        cut.push(id);
    }
    cut
}

/// Cuts a text where the first of `stops` appears, and names it.
fn cut<'a>(
    text: &mut &str,
    stops: impl Iterator<Item = &'a String> + Clone,
    include: IncludeStop,
) -> Option<String> {
    let (end, stop) =
        text.char_indices().map(|(start, character)| start + character.len_utf8()).find_map(|end| {
            let found = stops.clone().filter(|stop| text[..end].ends_with(stop.as_str()));
            found.max_by_key(|stop| stop.len()).map(|stop| (end, stop))
        })?;
    *text = &text[..if include == IncludeStop::Yes { end } else { end - stop.len() }];
    Some(stop.clone())
}

/// The slow twin: all of the text at once.
fn whole(mut text: &str, options: &StreamOptions) -> Outcome {
    let mut outcome = Outcome::default();
    let include = options.include_stop;
    if options.reasoning == Reasoning::Off {
        outcome.stop = cut(&mut text, options.stop.iter(), include);
        outcome.content.push_str(text);
        return outcome;
    }
    let (marked, plain): (Vec<&String>, Vec<&String>) =
        options.stop.iter().partition(|stop| stop.contains("<think>") || stop.contains("</think>"));
    let marked = cut(&mut text, marked.into_iter(), include);
    // In the order of the text, what belongs together in one piece.
    let mut pieces = vec![(options.reasoning == Reasoning::SplitStartInside, String::new())];
    for (part, after_start) in text.split("<think>").enumerate() {
        for (index, stretch) in after_start.split("</think>").enumerate() {
            let is_inside = index == 0 && (part > 0 || options.reasoning == Reasoning::SplitStartInside);
            let stretch = if index == 0 { stretch } else { stretch.trim_start() };
            match pieces.last_mut() {
                _ if stretch.is_empty() => {}
                Some((inside, text)) if *inside == is_inside => text.push_str(stretch),
                _ => pieces.push((is_inside, stretch.to_owned())),
            }
        }
    }
    for (is_inside, piece) in &pieces {
        let mut piece = piece.as_str();
        if *is_inside {
            outcome.reasoning.push_str(piece);
            continue;
        }
        outcome.stop = cut(&mut piece, plain.iter().copied(), include);
        outcome.content.push_str(piece);
        if outcome.stop.is_some() {
            return outcome;
        }
    }
    outcome.stop = marked;
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_gives_the_same_text(ids in pieces_of_text(), seed: u64, stops in 0usize..4, mode in 0usize..3, include: bool) {
        thread_local!(static TOKENIZER: Arc<Tokenizer> = small(ThinkKind::Control));
        let tokenizer = TOKENIZER.with(Arc::clone);
        let stop: &[&str] = [&[][..], &["STOP"], &["aab", "ab<", "<t"], &["</think>\n", "語", "\u{fffd}"]][stops];
        let reasoning = [Reasoning::Off, Reasoning::Split, Reasoning::SplitStartInside][mode];
        let include_stop = if include { IncludeStop::Yes } else { IncludeStop::No };
        let options = StreamOptions { include_stop, special: SpecialText::Keep, ..options(stop, reasoning) };
        let expected = whole(&tokenizer.decode(&ids, SpecialText::Keep), &options);
        prop_assert_eq!(&run(&tokenizer, options.clone(), &ids), &expected);
        prop_assert_eq!(&run(&tokenizer, options, &cut_again(&tokenizer, &ids, seed)), &expected);
    }
}
