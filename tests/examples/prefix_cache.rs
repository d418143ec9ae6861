//! Time to the first token of each turn of a conversation, with the prefix cache and without.
//!
//! `cargo run --release -p undine-tests --example prefix_cache -- model.gguf [turns]`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use undine_core::{GenerateRequest, Origin, SamplingParams, StopRules, TokenId};
use undine_cpu::{CpuExecutor, CpuOptions, Isa, KvType};
use undine_engine::{Engine, EngineConfig, Event, PrefixCaching};
use undine_tests::model;

/// Tokens of the system prompt.
const SYSTEM: u32 = 2000;
/// Tokens of a question.
const QUESTION: u32 = 30;
/// Tokens of an answer.
const ANSWER: u32 = 8;
/// Tokens of a whole conversation.
const CONTEXT: u32 = 4096;
/// Rows of a step.
const ROWS: u32 = 256;
const THREADS: usize = 2;

fn engine(path: &Path, prefix_caching: PrefixCaching) -> Engine {
    let options = CpuOptions {
        threads: THREADS,
        blocks: CONTEXT / undine_cpu::BLOCK_SIZE,
        slots: 1,
        snapshots: 16,
        rows: ROWS,
        outputs: 1,
        kv: KvType::F16,
        huge_pages: false,
        isa: Isa::detect(),
    };
    let executor = CpuExecutor::new(model(path), options).expect("the shape is supported");
    let config = EngineConfig {
        max_num_seqs: 1,
        max_num_batched_tokens: ROWS,
        max_model_len: CONTEXT,
        max_waiting: 1,
        prefill_chunk: ROWS,
        prefix_caching,
        image_cache_bytes: 0,
    };
    Engine::new(Box::new(executor), config).expect("no limit is zero")
}

/// Text that no other turn has.
fn text(turn: u32, tokens: u32) -> impl Iterator<Item = TokenId> {
    (0..tokens).map(move |i| 500 + (i * i * 7 + i * 31 + turn * 977) % 20_000)
}

/// The answer, the time to its first token, and how much of the prompt was cached.
fn answer(engine: &mut Engine, prompt: &[TokenId]) -> (Vec<TokenId>, Duration, u32) {
    let stop = StopRules::after(ANSWER);
    let (sampling, logit_bias) = (SamplingParams::greedy(), vec![]);
    let (prompt, images) = (prompt.to_vec(), vec![]);
    let origin = Origin::default();
    let request =
        GenerateRequest { prompt, images, sampling, logit_bias, stop, prompt_logprobs: None, origin };
    let started = Instant::now();
    engine.add(request).expect("the conversation fits");
    let (mut events, mut tokens, mut first, mut cached) = (Vec::new(), Vec::new(), None, 0);
    while engine.has_work() {
        engine.step(&mut events).expect("the CPU does not fail");
        for (_, event) in events.drain(..) {
            match event {
                Event::Started { cached_tokens } => cached = cached_tokens,
                Event::Token(output) => {
                    first.get_or_insert_with(|| started.elapsed());
                    tokens.push(output.chosen.token);
                }
                Event::PromptScores(_) | Event::Finished(_) => {}
            }
        }
    }
    (tokens, first.expect("an answer has a token"), cached)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a model");
    let turns: u32 = arguments.next().map_or(4, |turns| turns.parse().expect("a number of turns"));
    let path = Arc::<Path>::from(Path::new(&path));
    let mut engines = [PrefixCaching::On, PrefixCaching::Off].map(|caching| engine(&path, caching));
    let mut prompt: Vec<TokenId> = text(0, SYSTEM).collect();
    println!("turn  prompt  cached   with cache      without");
    for turn in 1..=turns {
        prompt.extend(text(turn, QUESTION));
        let [(tokens, with, cached), (expected, without, _)] =
            engines.each_mut().map(|engine| answer(engine, &prompt));
        assert_eq!(tokens, expected, "the cache changes no token");
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{turn:>4} {:>7} {cached:>7} {:>9.1} ms {:>9.1} ms", prompt.len(), ms(with), ms(without));
        prompt.extend(tokens);
    }
}
