//! The demo model answers inside its world: 50 questions that its training never saw, at least 45 right. They
//! run through tokenizer, template, engine and text stream, many at once, greedily.

use std::sync::Arc;

use serde_json::{Map, Value};
use undine_core::{GenerateRequest, Origin, RequestId, SamplingParams, StopRules};
use undine_engine::{Engine, EngineConfig, Event, PrefixCaching};
use undine_tests::{cpu, demo, model};
use undine_text::{
    ChatInput, ChatTemplate, IncludeStop, Piece, Reasoning, SpecialText, StreamOptions, TextStream,
    Tokenizer, ToolFormat,
};

/// Questions that may be answered wrongly, of 50.
const WRONG_MAX: usize = 5;

#[test]
fn held_out_questions_are_answered() {
    let questions = read(include_str!("../../../demo/questions.jsonl"));
    assert_eq!(questions.len(), 50);
    let wrong = wrong(&questions);
    assert!(wrong.len() <= WRONG_MAX, "{} wrong: {wrong:#?}", wrong.len());
}

fn read(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What was wrong, in words.
fn wrong(questions: &[Value]) -> Vec<String> {
    let answers = ask(questions);
    let pairs = questions.iter().zip(&answers);
    pairs
        .filter(|(question, answer)| !passes(&question["check"], answer))
        .map(|(question, answer)| format!("{}: {answer:?}, expected {}", question["id"], question["check"]))
        .collect()
}

/// Reasoning apart, and nothing else taken out.
fn as_written() -> StreamOptions {
    StreamOptions {
        stop: Vec::new(),
        include_stop: IncludeStop::No,
        special: SpecialText::Keep,
        reasoning: Reasoning::Split,
        tools: None,
        tool_format: ToolFormat::Lfm2,
    }
}

/// The text after the reasoning of each answer, markers of calls included.
fn ask(questions: &[Value]) -> Vec<String> {
    let model = model(&demo());
    let checkpoint = model.checkpoint();
    let special = checkpoint.special_tokens();
    let tokenizer = Arc::new(Tokenizer::new(checkpoint.vocabulary(), special).unwrap().unwrap());
    let template =
        ChatTemplate::new(checkpoint.chat_template().unwrap(), "<|startoftext|>", "<|im_end|>").unwrap();
    let config = EngineConfig {
        max_num_seqs: 16,
        max_num_batched_tokens: 512,
        max_model_len: 1024,
        max_waiting: 512,
        prefill_chunk: 256,
        prefix_caching: PrefixCaching::On,
        image_cache_bytes: 0,
    };
    let mut engine = Engine::new(Box::new(cpu(&model, 2)), config).unwrap();
    let mut streams: Vec<(RequestId, TextStream, Vec<Piece>)> = Vec::new();
    for question in questions {
        let tools = question["tools"].as_array().map(Vec::as_slice);
        let messages = question["messages"].as_array().unwrap();
        let input = ChatInput { messages, tools, add_generation_prompt: true, kwargs: &Map::new() };
        let prompt = tokenizer.encode(&template.render(&input).unwrap(), tokenizer.default_bos());
        let stop = StopRules { eos_tokens: special.eos.clone(), ..StopRules::after(160) };
        let request = GenerateRequest {
            prompt,
            images: Vec::new(),
            sampling: SamplingParams::greedy(),
            logit_bias: Vec::new(),
            stop,
            prompt_logprobs: None,
            origin: Origin::default(),
        };
        let id = engine.add(request).unwrap();
        streams.push((id, TextStream::new(Arc::clone(&tokenizer), as_written()), Vec::new()));
    }
    let mut events = Vec::new();
    while engine.has_work() {
        engine.step(&mut events).unwrap();
        for (id, event) in events.drain(..) {
            let (_, stream, pieces) = streams.iter_mut().find(|(stream, ..)| *stream == id).unwrap();
            match event {
                Event::Token(output) if special.eos.contains(&output.chosen.token) => {}
                Event::Token(output) => drop(stream.push(output.chosen.token, pieces)),
                Event::Finished(_) => drop(stream.finish(pieces)),
                Event::Started { .. } => {}
                Event::PromptScores(_) => unreachable!("not asked for"),
            }
        }
    }
    let content = |pieces: Vec<Piece>| {
        pieces
            .into_iter()
            .filter_map(|piece| if let Piece::Content(text) = piece { Some(text) } else { None })
            .collect()
    };
    streams.into_iter().map(|(.., pieces)| content(pieces)).collect()
}

fn passes(check: &Value, answer: &str) -> bool {
    let lower = answer.to_lowercase();
    check.as_object().unwrap().iter().all(|(kind, wanted)| match kind.as_str() {
        "answer_contains" => wanted
            .as_array()
            .unwrap()
            .iter()
            .all(|word| lower.contains(&word.as_str().unwrap().to_lowercase())),
        "min_sentences" => {
            let ends = answer.trim().chars().zip(answer.trim().chars().skip(1).chain([' ']));
            ends.filter(|&(end, next)| ".!?".contains(end) && next.is_whitespace()).count() as u64
                >= wanted.as_u64().unwrap()
        }
        "equals_json" => serde_json::from_str::<Value>(answer.trim()).is_ok_and(|found| found == *wanted),
        "tool_call" => tool_call(answer).is_some_and(|found| found == *wanted),
        other => panic!("unknown check {other}"),
    })
}

/// The one call of `<|tool_call_start|>[name(key=JSON, ...)]<|tool_call_end|>`.
fn tool_call(answer: &str) -> Option<Value> {
    let call = answer.trim().strip_prefix("<|tool_call_start|>[")?.strip_suffix(")]<|tool_call_end|>")?;
    let (name, mut rest) = call.split_once('(')?;
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=')?;
        let mut values = serde_json::Deserializer::from_str(value).into_iter::<Value>();
        arguments.insert(key.to_owned(), values.next()?.ok()?);
        rest = value[values.byte_offset()..].trim_start_matches(", ");
    }
    Some(serde_json::json!({"name": name, "arguments": arguments}))
}
