//! `undine inspect`: what is in a checkpoint, as a table or as JSON. Both are views of one description.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value as Json, json};
use undine_core::{Config, DType, LayerKind, SpecialTokens, Vocabulary};
use undine_cpu::KvType;
use undine_text::{ChatInput, ChatTemplate, SpecialText, ends_in_think};
use undine_weights::{Checkpoint, Value};

use crate::args::InspectArgs;
use crate::error::Error;
use crate::format::{Bytes, grouped};
use crate::open;
use crate::output;
use crate::shown;
use crate::template::{self, Origin};

/// Longest metadata text in the table; JSON has all of it.
const SHOWN_CHARS_MAX: usize = 72;
/// Longest metadata array in JSON; longer ones are told by kind and length.
const SHOWN_ENTRIES_MAX: usize = 256;
/// Bytes of an f32 convolution state value.
const STATE_VALUE_BYTES: usize = 4;

/// What there is of one element type.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub struct TypeTotal {
    tensors: usize,
    parameters: u64,
    pub bytes: u64,
}

/// Parameters of a checkpoint, those the language model does not use included.
pub fn parameters(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<(), Error> {
    let checkpoint = open::open(args.model.as_deref())?;
    let mut out = shown::paper();
    if args.json {
        let mut json = describe(&checkpoint, args.model.as_deref());
        if args.tensors {
            json["tensors"] = tensors_json(&checkpoint);
        }
        writeln!(shown::stdout(), "{}", serde_json::to_string_pretty(&json).expect("a JSON value is JSON"))?;
        return Ok(());
    }
    print(&mut out, &checkpoint, args.model.as_deref())?;
    if args.tensors {
        print_tensors(&mut out, &checkpoint)?;
    }
    Ok(())
}

/// The description as a table.
pub fn print(out: &mut impl Write, checkpoint: &Checkpoint, path: Option<&Path>) -> Result<(), Error> {
    print_summary(out, &describe(checkpoint, path))?;
    print_types(out, checkpoint)?;
    print_metadata(out, checkpoint)
}

pub fn types(checkpoint: &Checkpoint) -> BTreeMap<DType, TypeTotal> {
    let mut types: BTreeMap<DType, TypeTotal> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let total = types.entry(tensor.dtype).or_default();
        total.tensors += 1;
        total.parameters += tensor.shape.iter().product::<usize>() as u64;
        total.bytes += tensor.bytes;
    }
    types
}

/// One letter per layer: `c` short convolution, `a` attention.
fn pattern(config: &Config) -> String {
    let letter = |kind: &LayerKind| if *kind == LayerKind::Conv { 'c' } else { 'a' };
    config.layers.iter().map(letter).collect()
}

/// Everything about a checkpoint but its tensors.
pub fn describe(checkpoint: &Checkpoint, path: Option<&Path>) -> Json {
    let config = checkpoint.config();
    let moe = config
        .moe
        .map(|moe| json!({"experts": moe.experts, "experts_active": moe.experts_active, "width": moe.width}));
    let dense = config.feed_forward.iter().find_map(|feed_forward| match feed_forward {
        undine_core::FeedForward::Dense { width } => Some(*width),
        undine_core::FeedForward::Moe => None,
    });
    let types: serde_json::Map<String, Json> =
        types(checkpoint).into_iter().map(|(dtype, total)| (dtype.name().to_owned(), json!(total))).collect();
    let kv = |kind: KvType| kind.token_bytes(config);
    let (tokenizer, template) = describe_text(checkpoint);
    let metadata: serde_json::Map<String, Json> =
        checkpoint.metadata().iter().map(|(key, value)| (key.clone(), value_json(value))).collect();
    json!({
        "name": checkpoint.name(),
        "path": path,
        "format": checkpoint.format(),
        "file_bytes": checkpoint.file_bytes(),
        "parameters": parameters(checkpoint),
        "context_length": config.context_max,
        "hidden": config.hidden,
        "vocab": config.vocab,
        "layers": {
            "count": config.layers.len(), "pattern": pattern(config),
            "conv": config.conv_layers(), "attention": config.attention_layers(),
            "conv_taps": config.conv_taps,
        },
        "attention": {"heads": config.heads, "kv_heads": config.kv_heads, "head_dim": config.head_dim},
        "feed_forward": dense,
        "moe": moe,
        "rope_theta": config.rope_theta,
        "norm_eps": config.norm_eps,
        "types": types,
        "memory": {
            "kv_bytes_per_token": {"float32": kv(KvType::F32), "float16": kv(KvType::F16), "q8_0": kv(KvType::Q8_0)},
            "conv_state_bytes_per_sequence": config.conv_state_elems() * STATE_VALUE_BYTES,
        },
        "tokenizer": tokenizer,
        "chat_template": template,
        "sampling_defaults": sampling(checkpoint),
        "repairs": checkpoint.repairs(),
        "metadata": metadata,
    })
}

fn sampling(checkpoint: &Checkpoint) -> Json {
    let stated = checkpoint.sampling_defaults();
    json!({
        "temperature": stated.temperature, "top_k": stated.top_k, "top_p": stated.top_p,
        "min_p": stated.min_p, "repetition_penalty": stated.repetition_penalty,
    })
}

/// The tokenizer and the chat template; null for what is not there, and the reason for what cannot be used.
fn describe_text(checkpoint: &Checkpoint) -> (Json, Json) {
    let source = match checkpoint.vocabulary() {
        Vocabulary::HuggingFace(_) => "tokenizer.json".to_owned(),
        Vocabulary::Gguf { pre, .. } => format!("GGUF, pre-tokenizer {pre}"),
        Vocabulary::None => return (Json::Null, Json::Null),
    };
    let tokenizer = match open::tokenizer(checkpoint) {
        Ok(Some(tokenizer)) => tokenizer,
        Ok(None) => return (Json::Null, Json::Null),
        Err(error) => return (json!({"error": error.chain()}), Json::Null),
    };
    let SpecialTokens { bos, eos, pad, .. } = checkpoint.special_tokens();
    let token = |id: &u32| json!({"id": id, "text": tokenizer.decode(&[*id], SpecialText::Keep)});
    let description = json!({
        "source": source,
        "tokens": tokenizer.vocab_size(),
        "bos": bos.as_ref().map(token),
        "eos": eos.iter().map(token).collect::<Vec<_>>(),
        "pad": pad.as_ref().map(token),
        "adds_bos": tokenizer.default_bos() == undine_text::Bos::Add,
    });
    let sources = template::sources(checkpoint, &tokenizer);
    let template = match sources {
        None => Json::Null,
        Some(sources) => match template::compile(checkpoint, &tokenizer, sources) {
            Ok(template) => json!({
                "generation": generation(sources.plain, &template),
                "supports_tools": template.for_tools().traits().tools,
                "bytes": sources.plain.len(),
                "from": if sources.origin == Origin::Own { "undine" } else { "files" },
                "names": checkpoint.chat_templates().iter().map(|(name, _)| name).collect::<Vec<_>>(),
            }),
            Err(error) => json!({"error": error.chain()}),
        },
    };
    (description, template)
}

/// Which of the published template generations a template belongs to, by what sets each apart.
fn generation(source: &str, template: &ChatTemplate) -> &'static str {
    let messages = [json!({"role": "user", "content": "x"})];
    let kwargs = serde_json::Map::new();
    let input = ChatInput { messages: &messages, tools: None, add_generation_prompt: true, kwargs: &kwargs };
    let thinks_at_once = template.render(&input).is_ok_and(|text| ends_in_think(&text));
    match source {
        _ if thinks_at_once => "LFM2.5-2.6B (always reasons)",
        _ if source.contains("preserve_thinking") => "LFM2.5-8B-A1B",
        _ if source.contains("keep_past_thinking") => "LFM2.5-1.2B",
        _ if source.contains("<|tool_list_start|>") => "LFM2",
        _ if source.contains("<|im_start|>") => "other, in the LFM2 layout",
        _ => "other",
    }
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::Array(array) if array.len() > SHOWN_ENTRIES_MAX => Json::String(value.to_string()),
        Value::Array(array) => {
            (0..array.len()).filter_map(|i| array.get(i)).map(|entry| value_json(&entry)).collect()
        }
        Value::String(text) => Json::String(text.clone()),
        Value::Bool(value) => Json::Bool(*value),
        Value::F32(_) | Value::F64(_) => json!(value.as_f64()),
        Value::I8(_) | Value::I16(_) | Value::I32(_) | Value::I64(_) => match value.as_u64() {
            Some(number) => json!(number),
            None => json!(value.as_f64().map(|number| number as i64)),
        },
        _ => json!(value.as_u64()),
    }
}

fn print_summary(out: &mut impl Write, json: &Json) -> Result<(), Error> {
    let number = |pointer: &str| json.pointer(pointer).and_then(Json::as_u64).unwrap_or(0);
    let text = |pointer: &str| json.pointer(pointer).and_then(Json::as_str).unwrap_or_default().to_owned();
    let mut row = |name: &str, value: String| writeln!(out, "{name:<18} {}", shown::line(&value));
    row("name", text("/name"))?;
    row("format", format!("{}, {}", text("/format"), Bytes(number("/file_bytes"))))?;
    row("parameters", grouped(number("/parameters")))?;
    let (count, conv, attention) =
        (number("/layers/count"), number("/layers/conv"), number("/layers/attention"));
    let pattern = text("/layers/pattern");
    row("layers", format!("{count}: {conv} short convolutions (c), {attention} attention (a): {pattern}"))?;
    let (heads, kv_heads) = (number("/attention/heads"), number("/attention/kv_heads"));
    let head_dim = number("/attention/head_dim");
    row("width", format!("{}, {heads} heads of {head_dim}, {kv_heads} K/V heads", number("/hidden")))?;
    if json["feed_forward"].is_u64() {
        row("feed-forward", number("/feed_forward").to_string())?;
    }
    if json["moe"].is_object() {
        let (experts, active) = (number("/moe/experts"), number("/moe/experts_active"));
        row("experts", format!("{experts} of width {}, {active} active", number("/moe/width")))?;
    }
    row("vocabulary", grouped(number("/vocab")))?;
    row("context", format!("{} tokens", grouped(number("/context_length"))))?;
    let kv = |kind: KvType| Bytes(number(&format!("/memory/kv_bytes_per_token/{}", kind.name())));
    let [full, half, byte] = [KvType::F32, KvType::F16, KvType::Q8_0].map(kv);
    row("K/V per token", format!("{half} in float16, {full} in float32, {byte} in q8_0"))?;
    let state = number("/memory/conv_state_bytes_per_sequence");
    row("conv state", format!("{} per sequence", Bytes(state)))?;
    row("tokenizer", tokenizer_row(&json["tokenizer"]))?;
    row("chat template", template_row(&json["chat_template"]))?;
    for repair in json["repairs"].as_array().into_iter().flatten() {
        row("note", repair.as_str().unwrap_or_default().to_owned())?;
    }
    Ok(())
}

fn tokenizer_row(json: &Json) -> String {
    let text = |key: &str| json[key].as_str().unwrap_or_default();
    match json {
        Json::Null => "none: only token ids can be used".to_owned(),
        _ if json["error"].is_string() => format!("cannot be used: {}", text("error")),
        _ => format!("{}, {} tokens", text("source"), json["tokens"]),
    }
}

fn template_row(json: &Json) -> String {
    let text = |key: &str| json[key].as_str().unwrap_or_default();
    match json {
        Json::Null => "none: a base model, which completes text".to_owned(),
        _ if json["error"].is_string() => format!("cannot be used: {}", text("error")),
        _ => {
            let tools = if json["supports_tools"] == true { "tools" } else { "no tools" };
            let origin = if json["from"] == "undine" { ", LFM2's own: the files bring none" } else { "" };
            format!("{}, {tools}{origin}", text("generation"))
        }
    }
}

/// Columns that the table of types takes with all it says.
const TYPES_COLUMNS: usize = 54;

fn print_types(out: &mut impl Write, checkpoint: &Checkpoint) -> Result<(), Error> {
    let is_narrow = output::columns().is_some_and(|columns| columns < TYPES_COLUMNS);
    let of_parameters = |text: &str| if is_narrow { String::new() } else { format!(" {text:>16}") };
    let head = of_parameters("parameters");
    writeln!(out, "\n{:<8} {:>8}{head} {:>12} {:>6}", "type", "tensors", "size", "share")?;
    let types = types(checkpoint);
    let all: u64 = types.values().map(|total| total.bytes).sum();
    for (dtype, total) in types {
        let share = 100.0 * total.bytes as f64 / all.max(1) as f64;
        let (parameters, size) = (of_parameters(&grouped(total.parameters)), Bytes(total.bytes));
        writeln!(out, "{dtype:<8} {:>8}{parameters} {size:>12} {share:>5.1}%", total.tensors)?;
    }
    Ok(())
}

fn print_metadata(out: &mut impl Write, checkpoint: &Checkpoint) -> Result<(), Error> {
    writeln!(out, "\nmetadata")?;
    for (key, value) in checkpoint.metadata() {
        let text = value.to_string();
        // White space is part of most templates, and says nothing here.
        let line: String = text
            .chars()
            .take(SHOWN_CHARS_MAX)
            .map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c })
            .collect();
        let rest = if text.chars().nth(SHOWN_CHARS_MAX).is_some() { " ..." } else { "" };
        writeln!(out, "  {:<44} {}{rest}", shown::line(key), shown::line(&line))?;
    }
    Ok(())
}

fn print_tensors(out: &mut impl Write, checkpoint: &Checkpoint) -> Result<(), Error> {
    writeln!(out, "\ntensors (outermost dimension first)")?;
    for tensor in checkpoint.tensors() {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let (shape, size) = (shape.join(" x "), Bytes(tensor.bytes));
        let name = shown::line(tensor.name);
        writeln!(out, "  {name:<44} {:<7} {shape:<20} {size:>12}", tensor.dtype)?;
    }
    Ok(())
}

fn tensors_json(checkpoint: &Checkpoint) -> Json {
    let tensors = checkpoint.tensors().map(|tensor| {
        json!({"name": tensor.name, "type": tensor.dtype.name(), "shape": tensor.shape, "bytes": tensor.bytes})
    });
    tensors.collect()
}
