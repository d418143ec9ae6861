//! Questions about images, end to end: from a file and a text to the reference's logits and greedy tokens,
//! and the same bits however the prompt is cut, whoever is asked with it, and whatever the prefix cache has
//! of it.

use std::sync::Arc;

use undine_core::{
    Batch, BatchSequence, BlockId, Executor, GenerateRequest, ImageRows, Origin, OutputKind, OutputRow,
    RequestId, RowOutput, SamplingParams, Slot, StateSource, StopRules, TokenId, VisionExecutor,
};
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuVision, Isa, KvType};
use undine_engine::{Engine, EngineConfig, Event, PrefixCaching};
use undine_image::prompt::{Expanded, Placeholders, expand};
use undine_image::{ImagePipeline, PreparedImage};
use undine_model::{Model, Oracle, VisionModel, VisionOracle};
use undine_tests::{Expected, capacity, cpu_options, data, max_difference};
use undine_text::{Bos, Tokenizer};
use undine_weights::Checkpoint;

/// Absolute tolerance on logits.
const TOLERANCE: f32 = 5e-3;
const IMAGES: [&str; 5] = ["256x256", "640x480", "333x517", "1600x900", "48x40"];
/// Images of few tiles: the oracle and plain Rust are slow.
const SMALL_IMAGES: [&str; 3] = ["256x256", "333x517", "48x40"];
/// Rows of a step.
const ROWS: u32 = 512;
/// Rows at the end of the prompt whose logits are known.
const KNOWN_ROWS: usize = 8;

/// The checkpoint with everything that is made of it.
struct Reference {
    model: Arc<Model>,
    tower: Arc<VisionModel>,
    tokenizer: Tokenizer,
    pipeline: ImagePipeline,
    expected: Expected,
}

impl Reference {
    fn open() -> Self {
        let checkpoint = Arc::new(Checkpoint::open(&data("oracle/vl")).unwrap());
        Self {
            model: Arc::new(Model::bind(Arc::clone(&checkpoint))),
            tower: Arc::new(VisionModel::bind(Arc::clone(&checkpoint)).unwrap()),
            tokenizer: Tokenizer::new(checkpoint.vocabulary(), checkpoint.special_tokens()).unwrap().unwrap(),
            pipeline: ImagePipeline::new(*checkpoint.image_settings().unwrap()).unwrap(),
            expected: Expected::open(&data("oracle/vl")),
        }
    }

    fn prepare(&self, name: &str) -> PreparedImage {
        self.pipeline.prepare(&bytes(name)).unwrap()
    }

    /// A prompt in which `*` stands for the next image.
    fn prompt(&self, text: &str, images: &[&str]) -> Expanded {
        let placeholders = Placeholders::new(7);
        let prepared: Vec<_> =
            images.iter().map(|name| (self.pipeline.key(&bytes(name)), self.prepare(name))).collect();
        let mut rendered = String::new();
        let mut left = prepared.iter();
        for part in text.split_inclusive('*') {
            match part.strip_suffix('*') {
                Some(before) => rendered.extend([before, &placeholders.text(left.next().unwrap().0)]),
                None => rendered.push_str(part),
            }
        }
        let encoded = placeholders.encode(&rendered, |piece| self.tokenizer.encode(piece, Bos::Omit));
        let shown: Vec<_> = prepared.iter().map(|(key, image)| (*key, image)).collect();
        expand(&encoded.tokens, &shown, |marker| self.tokenizer.token_id(marker)).unwrap()
    }

    /// The reference's question about an image.
    fn question(&self, name: &str) -> Expanded {
        self.prompt(QUESTION, &[name])
    }

    fn cpu(&self, threads: usize, isa: Isa) -> (Box<dyn Executor>, Box<dyn VisionExecutor>) {
        let options = cpu_options(isa, threads, KvType::F32);
        (
            Box::new(CpuExecutor::new(Arc::clone(&self.model), options).unwrap()),
            Box::new(CpuVision::new(Arc::clone(&self.tower), threads, isa).unwrap()),
        )
    }

    fn oracle(&self) -> (Box<dyn Executor>, Box<dyn VisionExecutor>) {
        (
            Box::new(Oracle::new(Arc::clone(&self.model), capacity(&self.model))),
            Box::new(VisionOracle::new(Arc::clone(&self.tower))),
        )
    }

    fn engine(&self, rows: u32, prefix_caching: PrefixCaching) -> Engine {
        let (executor, vision) = self.cpu(2, Isa::detect());
        engine(executor, vision, rows, prefix_caching)
    }
}

const QUESTION: &str =
    "<|startoftext|><|im_start|>user\n*What is in this image?<|im_end|>\n<|im_start|>assistant\n";

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(data("oracle/vl").join(format!("{name}.png"))).unwrap()
}

fn engine(
    executor: Box<dyn Executor>,
    vision: Box<dyn VisionExecutor>,
    rows: u32,
    prefix_caching: PrefixCaching,
) -> Engine {
    let config = EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: rows,
        max_model_len: 4096,
        max_waiting: 8,
        prefill_chunk: rows,
        prefix_caching,
        image_cache_bytes: 1 << 20,
    };
    Engine::new(executor, config).unwrap().with_vision(vision).unwrap()
}

#[test]
fn prompts_are_those_of_the_reference() {
    let reference = Reference::open();
    for name in IMAGES {
        let found = reference.question(name).tokens;
        assert_eq!(found, reference.expected.tokens(&format!("{name}.input_ids")), "{name}");
    }
}

/// Logits of the last rows of a prompt that is computed in one sequence, [`ROWS`] at a time.
fn logits(executor: &mut dyn Executor, vision: &mut dyn VisionExecutor, prompt: &Expanded) -> Vec<f32> {
    let hidden = vision.config().hidden;
    let tiles: Vec<(u32, Arc<[f32]>)> = prompt
        .images
        .iter()
        .flat_map(|image| &image.spans)
        .map(|span| (span.first, vision.encode(std::slice::from_ref(&span.tile)).unwrap().into()))
        .collect();
    let (len, mut known) = (prompt.tokens.len() as u32, Vec::new());
    for start in (0..len).step_by(ROWS as usize) {
        let end = len.min(start + ROWS);
        let mut batch = Batch {
            tokens: prompt.tokens[start as usize..end as usize].to_vec(),
            sequences: vec![BatchSequence {
                rows: 0..end - start,
                start,
                slot: Slot(0),
                state: StateSource::carried(start),
                cached_rows: 0,
                blocks: 0..end.div_ceil(BLOCK_SIZE),
            }],
            block_tables: (0..end.div_ceil(BLOCK_SIZE)).map(BlockId).collect(),
            ..Batch::default()
        };
        for (first, encoded) in &tiles {
            let positions = start.max(*first)..end.min(first + (encoded.len() / hidden) as u32);
            if !positions.is_empty() {
                let rows = positions.start - start..positions.end - start;
                let (encoded, first) = (Arc::clone(encoded), positions.start - first);
                batch.image_rows.push(ImageRows { rows, encoded, first });
            }
        }
        let from = start.max(len - KNOWN_ROWS as u32);
        batch.outputs = (from..end)
            .map(|position| OutputRow { row: position - start, kind: OutputKind::Logits })
            .collect();
        let ticket = executor.submit(&batch).unwrap();
        known.extend(
            executor.try_collect(ticket).unwrap().unwrap().rows.into_iter().flat_map(|row| row.logits),
        );
    }
    known
}

#[test]
fn logits_after_images_are_those_of_the_reference() {
    let reference = Reference::open();
    let backends = Isa::available().into_iter().map(|isa| (isa.name(), reference.cpu(2, isa)));
    let backends = backends.chain([("the oracle", reference.oracle())]);
    for (what, (mut executor, mut vision)) in backends {
        let is_slow = matches!(what, "portable" | "the oracle");
        for name in if is_slow { &SMALL_IMAGES[..] } else { &IMAGES } {
            let found = logits(executor.as_mut(), vision.as_mut(), &reference.question(name));
            let difference =
                max_difference(&found, &reference.expected.floats(&format!("{name}.last_logits")));
            println!("{what}, {name}: logits differ by {difference}");
            assert!(difference < TOLERANCE, "{what}, {name}: logits differ by {difference}");
        }
    }
}

/// What an answer is compared by: tokens with the bits of their scores and of the best others.
type Answer = Vec<(TokenId, Vec<u32>)>;

/// Answers all prompts together; the answers, and how much of each prompt was cached.
fn answers(engine: &mut Engine, prompts: &[Expanded], max_tokens: u32) -> Vec<(Answer, u32)> {
    let mut found: Vec<(RequestId, Answer, u32)> = Vec::new();
    for Expanded { tokens, images } in prompts {
        let request = GenerateRequest {
            prompt: tokens.clone(),
            images: images.clone(),
            sampling: SamplingParams { logprobs: Some(8), ..SamplingParams::greedy() },
            logit_bias: Vec::new(),
            stop: StopRules::after(max_tokens),
            prompt_logprobs: None,
            origin: Origin::default(),
        };
        found.push((engine.add(request).unwrap(), Vec::new(), 0));
    }
    let mut events = Vec::new();
    while engine.has_work() {
        engine.step(&mut events).unwrap();
        for (id, event) in events.drain(..) {
            let (_, answer, cached) = found.iter_mut().find(|(other, ..)| *other == id).unwrap();
            match event {
                Event::Started { cached_tokens } => *cached = cached_tokens,
                Event::Token(RowOutput { chosen, top, .. }) => {
                    let scores = std::iter::once(chosen).chain(top).map(|score| score.logprob.to_bits());
                    answer.push((chosen.token, scores.collect()));
                }
                Event::PromptScores(_) | Event::Finished(_) => {}
            }
        }
    }
    engine.check_integrity();
    found.into_iter().map(|(_, answer, cached)| (answer, cached)).collect()
}

#[test]
fn answers_are_those_of_the_reference() {
    let reference = Reference::open();
    let cpu = reference.engine(ROWS, PrefixCaching::On);
    let (executor, vision) = reference.oracle();
    let oracle = engine(executor, vision, ROWS, PrefixCaching::On);
    for (what, mut engine, names) in [("the CPU", cpu, &IMAGES[..]), ("the oracle", oracle, &SMALL_IMAGES)] {
        for name in names {
            let (found, _) = answers(&mut engine, &[reference.question(name)], 12).remove(0);
            let found: Vec<TokenId> = found.into_iter().map(|(token, _)| token).collect();
            assert_eq!(found, reference.expected.tokens(&format!("{name}.generated_ids")), "{what}, {name}");
        }
    }
}

/// Whole or in chunks that begin and end in the midst of tiles, alone or with others, from the beginning or
/// from the cache.
#[test]
fn an_answer_does_not_depend_on_how_it_was_computed() {
    let reference = Reference::open();
    let two =
        "<|startoftext|><|im_start|>user\nThis *is not <image> *but?<|im_end|>\n<|im_start|>assistant\n";
    let prompts = [
        reference.question("333x517"),
        reference.question("256x256"),
        reference.prompt(two, &["48x40", "333x517"]),
        reference.prompt(two, &["333x517", "333x517"]),
    ];
    let alone = |prompt: &Expanded| {
        let mut engine = reference.engine(ROWS, PrefixCaching::Off);
        answers(&mut engine, std::slice::from_ref(prompt), 4).remove(0).0
    };
    let expected: Vec<Answer> = prompts.iter().map(alone).collect();
    for (i, one) in expected.iter().enumerate() {
        assert!(expected[..i].iter().all(|other| other != one), "prompt {i} is answered like another");
    }
    for rows in [ROWS, 100, 23] {
        let mut engine = reference.engine(rows, PrefixCaching::On);
        // All at once, then again: now everything is cached, and rows are replayed.
        for round in 0..2 {
            let found = answers(&mut engine, &prompts, 4);
            for ((i, (answer, cached)), prompt) in found.iter().enumerate().zip(&prompts) {
                assert_eq!(*answer, expected[i], "prompt {i} in steps of {rows}, round {round}");
                assert!(
                    round == 0 || *cached > prompt.tokens.len() as u32 / 2,
                    "prompt {i}: {cached} cached"
                );
            }
        }
        let stats = engine.stats();
        assert!(stats.image_tiles_encoded_total <= 6, "{stats:?}");
    }
}

/// The prefix cache knows an image by its pixels: the same question about another one of the same size is
/// another question.
#[test]
fn the_prefix_cache_tells_images_apart() {
    let reference = Reference::open();
    let red = reference.question("256x256");
    // The same picture with one pixel changed is cut alike.
    let mut changed = red.clone();
    let image = &mut changed.images[0];
    image.key.0[0] ^= 1;
    let mut pixels = image.spans[0].tile.pixels.to_vec();
    pixels.iter_mut().take(3 * 16 * 16 * 4).for_each(|value| *value = 255 - *value);
    image.spans[0].tile.pixels = pixels.into();
    let ask =
        |engine: &mut Engine, prompt: &Expanded| answers(engine, std::slice::from_ref(prompt), 4).remove(0);
    let (uncached, _) = ask(&mut reference.engine(ROWS, PrefixCaching::Off), &changed);
    let mut engine = reference.engine(ROWS, PrefixCaching::On);
    let (first, cached) = ask(&mut engine, &red);
    assert_eq!(cached, 0);
    let (other, cached) = ask(&mut engine, &changed);
    let before_image = red.images[0].spans[0].first;
    assert!(
        cached <= before_image,
        "{cached} tokens of another image's prompt, which has {before_image} before it"
    );
    assert_eq!(other, uncached);
    assert_ne!(other, first);
    // A second turn, each of its own image.
    for (prompt, answer) in [(&red, &first), (&changed, &other)] {
        let mut turn = prompt.clone();
        turn.tokens.extend(answer.iter().map(|(token, _)| *token));
        turn.tokens.extend(reference.tokenizer.encode("\nAnd what else?", Bos::Omit));
        let (expected, _) = ask(&mut reference.engine(ROWS, PrefixCaching::Off), &turn);
        let encoded = engine.stats().image_tiles_encoded_total;
        let (found, cached) = ask(&mut engine, &turn);
        assert_eq!(found, expected);
        assert!(cached >= prompt.tokens.len() as u32 - 1, "{cached} of {} tokens", prompt.tokens.len());
        assert_eq!(
            engine.stats().image_tiles_encoded_total,
            encoded,
            "an image in the cache was encoded again"
        );
    }
}
