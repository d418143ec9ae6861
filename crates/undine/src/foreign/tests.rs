//! Command lines as people bring them along, and what becomes of each.

use std::ffi::OsString;

use undine_hub::Access;

use super::{Rewritten, rewrite};

/// What becomes of a command line.
enum Becomes {
    /// These words, without a note.
    Words(&'static str),
    /// These words, and notes that say these things.
    Noted(&'static str, &'static [&'static str]),
    /// An error that says this.
    Refused(&'static str),
}
use Becomes::{Noted, Refused, Words};

/// Words of a line: blanks separate them, and single quotes keep them together.
fn words(line: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(OsString::from)),
            _ => words.push(part.into()),
        }
    }
    words
}

fn shown(words: &[OsString]) -> String {
    let quoted = |word: &OsString| {
        let text = word.to_string_lossy();
        if text.is_empty() || text.contains(' ') { format!("'{text}'") } else { text.into_owned() }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn check(lines: &[(&str, Becomes)]) {
    for (line, expected) in lines {
        match (rewrite(words(line)), expected) {
            (Ok(Rewritten { words, notes, .. }), Words(expected)) => {
                assert_eq!(shown(&words), *expected, "{line}");
                assert!(notes.is_empty(), "{line}: {notes:?}");
            }
            (Ok(Rewritten { words, notes, .. }), Noted(expected, parts)) => {
                assert_eq!(shown(&words), *expected, "{line}");
                assert_eq!(notes.len(), parts.len(), "{line}: {notes:?}");
                for (note, part) in notes.iter().zip(*parts) {
                    assert!(note.contains(part), "{line}: {note}");
                }
            }
            (Err(error), Refused(part)) => {
                let message = error.chain();
                assert!(message.contains(part), "{line}: {message}");
                assert_eq!(error.exit_code(), 2, "{line}");
            }
            (Ok(found), Refused(_)) => panic!("{line}: {found:?}"),
            (Err(error), _) => panic!("{line}: {}", error.chain()),
        }
    }
}

const LLAMA_CLI: &[(&str, Becomes)] = &[
    ("undine run m.gguf -p hi", Words("undine run m.gguf -p hi")),
    ("undine run -m m.gguf -p hi", Words("undine run m.gguf -p hi")),
    ("undine run -p hi -m m.gguf", Words("undine run m.gguf -p hi")),
    ("undine run --model m.gguf hi", Words("undine run m.gguf hi")),
    ("undine run hi --model=m.gguf", Words("undine run m.gguf hi")),
    ("undine -m m.gguf -p hi", Words("undine run m.gguf -p hi")),
    ("undine m.gguf", Words("undine run m.gguf")),
    ("undine -hf a/b:Q4_0", Words("undine run a/b:Q4_0")),
    ("undine -p hi", Words("undine run -p hi")),
    ("undine llama-cli -m m.gguf", Words("undine run m.gguf")),
    ("undine cli -m m.gguf", Words("undine run m.gguf")),
    ("undine run -hf a/b:Q4_0 -p hi", Words("undine run a/b:Q4_0 -p hi")),
    ("undine run --hf-repo=a/b", Words("undine run a/b")),
    ("undine run -hfr a/b -hff c.gguf", Words("undine run a/b/c.gguf")),
    ("undine run -hff c.gguf -hf a/b:Q8_0", Words("undine run a/b/c.gguf")),
    ("undine run -hff c.gguf", Refused("-hf OWNER/NAME -hff FILE")),
    (
        "undine run -mu https://huggingface.co/a/b/resolve/main/c.gguf",
        Words("undine run https://huggingface.co/a/b/resolve/main/c.gguf"),
    ),
    ("undine run -hf", Refused("expected a value after it")),
    ("undine run -hf -p hi", Refused("expected a model after it")),
    ("undine run -m ''", Refused("expected a model after it")),
    ("undine run -- -hf", Words("undine run -- -hf")),
    ("undine run -hft hf_x", Refused("HF_TOKEN")),
    ("undine run m -ngl 99", Noted("undine run m", &["-ngl has no effect: there is no GPU"])),
    ("undine run m --n-gpu-layers 99", Noted("undine run m", &["--n-gpu-layers has no effect"])),
    ("undine run m --n_gpu_layers=99", Noted("undine run m", &["no effect"])),
    ("undine run m --gpu-layers all", Noted("undine run m", &["no effect"])),
    ("undine run m -ngl 0", Words("undine run m")),
    ("undine run m -ngl", Refused("-ngl: expected a value")),
    ("undine run m -c 0", Words("undine run m")),
    ("undine run m -c 8192", Words("undine run m --max-model-len 8192")),
    ("undine run m --ctx-size 32K", Words("undine run m --max-model-len 32K")),
    ("undine run m -n -1", Words("undine run m")),
    ("undine run m -n -2 -p hi", Words("undine run m -p hi")),
    ("undine run m -n 128", Words("undine run m --max-tokens 128")),
    ("undine run m --n-predict 128", Words("undine run m --max-tokens 128")),
    ("undine run m --predict=64", Words("undine run m --max-tokens 64")),
    ("undine run m -fa", Words("undine run m")),
    ("undine run m -fa on -p hi", Words("undine run m -p hi")),
    ("undine run m -fa auto", Words("undine run m")),
    ("undine run m -fa off", Noted("undine run m", &["attention is computed in one way"])),
    ("undine run m --flash-attn", Words("undine run m")),
    ("undine run -fa m", Words("undine run m")),
    ("undine run m -ctk q8_0 -ctv q8_0", Words("undine run --kv-cache-dtype=q8_0 m")),
    ("undine run m -ctk f16", Words("undine run --kv-cache-dtype=float16 m")),
    (
        "undine run m --cache-type-k q8_0 --cache-type-v f16",
        Noted("undine run --kv-cache-dtype=float16 m", &["one type"]),
    ),
    ("undine run m -ctk q4_0", Noted("undine run --kv-cache-dtype=q8_0 m", &["smallest"])),
    ("undine run m -ctk x", Refused("expected f32, f16, bf16 or q8_0")),
    ("undine run m --jinja", Words("undine run m")),
    ("undine run m -st -p hi", Words("undine run m -p hi")),
    ("undine run m -sys 'Be brief.'", Words("undine run m --system 'Be brief.'")),
    ("undine run m -sysf s.txt", Words("undine run m --system-file s.txt")),
    ("undine run m -f p.txt", Words("undine run m -f p.txt")),
    (
        "undine run m --temp 0.7 --top-k 40 --top-p 0.9 --min-p 0.05",
        Words("undine run m --temp 0.7 --top-k 40 --top-p 0.9 --min-p 0.05"),
    ),
    ("undine run m -no-cnv -p hi", Words("undine run m --raw -p hi")),
    ("undine run m --no-conversation", Words("undine run m --raw")),
    ("undine run m -cnv", Words("undine run m --interactive")),
    ("undine run m -i -p hi", Words("undine run m --interactive -p hi")),
    ("undine run m -t 8 -tb 8", Noted("undine run m --threads 8", &["-tb has no effect"])),
    ("undine run m -t -1", Words("undine run m")),
    ("undine run m -b 2048 -ub 512", Noted("undine run m", &["-b", "-ub"])),
    ("undine run m -np 1", Words("undine run m")),
    ("undine run m -np 4", Noted("undine run m", &["one prompt at a time"])),
    ("undine run m -s 42", Words("undine run m --seed 42")),
    ("undine run m --seed -1", Words("undine run m")),
    ("undine run m --mlock --no-mmap", Noted("undine run m", &["--mlock", "--no-mmap"])),
    ("undine run m -e -p 'a\\nb'", Words("undine run m --escape -p a\\nb")),
    ("undine run m --color", Noted("undine run m", &["NO_COLOR"])),
    ("undine run m -co auto", Noted("undine run m", &["NO_COLOR"])),
    ("undine run m -v", Words("undine run m -v")),
    ("undine run m -r 'User:'", Words("undine run m --stop User:")),
    (
        "undine run m --reasoning-budget 0",
        Words("undine run m --chat-template-kwargs '{\"enable_thinking\": false}'"),
    ),
    ("undine run m --reasoning-budget -1", Words("undine run m")),
    ("undine run m --reasoning-format none", Words("undine run m --show-thinking")),
    ("undine run m --lora a.gguf", Refused("merge them")),
    ("undine run m -md d.gguf", Noted("undine run m", &["answers are the same"])),
    ("undine run m --grammar-file g", Refused("response_format")),
    ("undine run m --mirostat 0", Words("undine run m")),
    ("undine run m --mirostat 2", Refused("temperature, top-k")),
    ("undine run m --dry-multiplier 0.0 --xtc-probability 0", Words("undine run m")),
    (
        "undine run m --repeat-last-n 64 --repeat-penalty 1.1",
        Noted("undine run m --repeat-penalty 1.1", &["all of prompt"]),
    ),
    ("undine run m --rope-freq-base 10000", Refused("own configuration")),
    ("undine run m --no-display-prompt --simple-io --log-disable --no-warmup", Words("undine run m")),
    ("undine run m --prompt-cache c.bin", Noted("undine run m", &["nothing is kept"])),
    ("undine run m --ignore-eos", Refused("answers end")),
    ("undine run m -dev CUDA0 -sm none -mg 0", Noted("undine run m", &["-dev"])),
    ("undine run m --numa distribute --prio 2", Noted("undine run m", &["--numa", "--prio"])),
    ("undine run m -p -hf", Words("undine run m -p -hf")),
    ("undine run m --system -m", Words("undine run m --system -m")),
    ("undine run m --nonsense", Words("undine run m --nonsense")),
];

#[test]
fn lines_of_llama_cli_mean_what_they_mean_there() {
    check(LLAMA_CLI);
}

#[test]
fn lines_of_llama_server_mean_what_they_mean_there() {
    check(&[
        ("undine serve -m m.gguf", Words("undine serve m.gguf")),
        ("undine llama-server -m m.gguf --port 8080", Words("undine serve m.gguf --port 8080")),
        ("undine server -hf a/b", Words("undine serve a/b")),
        (
            "undine serve -hf a/b --host 0.0.0.0 --port 8080",
            Words("undine serve a/b --host 0.0.0.0 --port 8080"),
        ),
        (
            "undine serve m -c 32768 -np 4 -ngl 99 -fa on --jinja",
            Noted("undine serve m --max-model-len 32768 --max-num-seqs 4", &["-ngl"]),
        ),
        ("undine serve m -c 0 -np -1", Words("undine serve m")),
        ("undine serve m -a name", Words("undine serve m --served-model-name name")),
        (
            "undine serve m --temp 0.3 --top-k 40",
            Words("undine serve --override-generation-config={\"temperature\":0.3,\"top_k\":40} m"),
        ),
        ("undine serve m --temp hot", Refused("expected a number")),
        ("undine serve m -n 512", Noted("undine serve m", &["max_tokens"])),
        ("undine serve m -n -1", Words("undine serve m")),
        (
            "undine serve m --reasoning-format deepseek --reasoning-budget 0",
            Words("undine serve m --reasoning-budget 0"),
        ),
        ("undine serve m --reasoning-format none", Words("undine serve m --reasoning-parser none")),
        (
            "undine serve m --ssl-key-file k --ssl-cert-file c",
            Words("undine serve m --ssl-keyfile k --ssl-certfile c"),
        ),
        ("undine serve m --api-key k --api-prefix /x", Words("undine serve m --api-key k --root-path /x")),
        ("undine serve m --chat-template-file t.jinja", Words("undine serve m --chat-template t.jinja")),
        ("undine serve m --cont-batching --metrics --slots --no-webui", Words("undine serve m")),
        ("undine serve m --cache-reuse 256", Noted("undine serve m", &["found again"])),
        ("undine serve m --no-cache-prompt", Words("undine serve m --no-enable-prefix-caching")),
        ("undine serve m --embeddings", Refused("no embeddings")),
        ("undine serve m -v", Words("undine serve m --log-level debug")),
        ("undine serve m --threads-http 4 -to 600", Noted("undine serve m", &["--threads-http", "-to"])),
        ("undine serve m -ub 1024", Words("undine serve m --max-num-batched-tokens 1024")),
        ("undine serve m -ctk q8_0 -ctv q8_0", Words("undine serve --kv-cache-dtype=q8_0 m")),
        ("undine serve m -s 1", Words("undine serve m --seed 1")),
        ("undine serve --model m --device cpu", Words("undine serve --model m --device cpu")),
        ("undine serve m -tp 2", Words("undine serve m -tp 2")),
    ]);
}

#[test]
fn lines_of_llama_bench_quantize_perplexity_and_imatrix_too() {
    check(&[
        (
            "undine bench -m m.gguf -p 512 -n 128 -t 4 -r 5 -o md",
            Words("undine bench m.gguf -p 512 -n 128 --threads 4 -r 5 --output md"),
        ),
        ("undine llama-bench -m m.gguf -o csv", Words("undine bench m.gguf --output csv")),
        ("undine bench m -ngl 99 -fa 1 -mmp 0", Noted("undine bench m", &["-ngl", "-mmp"])),
        ("undine bench m -fa 0", Noted("undine bench m", &["one way"])),
        ("undine bench m -t 1,2,4", Refused("once for each")),
        ("undine bench m -ub 256 -b 2048", Noted("undine bench m --ubatch 256", &["-b"])),
        ("undine bench m -ctk q8_0 -ctv q8_0 -d 4096", Words("undine bench --kv-cache-dtype=q8_0 m -d 4096")),
        ("undine bench m -pg 512,128", Refused("undine bench throughput")),
        ("undine bench m --no-warmup", Words("undine bench m --warmup 0")),
        ("undine bench serve -m m --port 1", Words("undine bench serve --model m --port 1")),
        (
            "undine bench throughput -m m.gguf --num-prompts 4",
            Words("undine bench throughput m.gguf --num-prompts 4"),
        ),
        ("undine quantize in.gguf out.gguf Q4_K_M", Words("undine quantize in.gguf out.gguf --type=Q4_K_M")),
        (
            "undine quantize in.gguf out.gguf q4_k_m 8",
            Words("undine quantize in.gguf out.gguf --type=q4_k_m --threads=8"),
        ),
        (
            "undine quantize d/in.gguf Q8_0",
            Words("undine quantize d/in.gguf d/ggml-model-Q8_0.gguf --type=Q8_0"),
        ),
        (
            "undine quantize --imatrix i.dat in.gguf out.gguf IQ4_XS",
            Words("undine quantize --imatrix i.dat in.gguf out.gguf --type=IQ4_XS"),
        ),
        ("undine quantize in.gguf out.gguf Q9_Z", Refused("expected a type such as Q4_K_M")),
        ("undine quantize in.gguf out.gguf 15", Refused("expected a type such as Q4_K_M")),
        (
            "undine quantize in.gguf out.gguf --type Q8_0",
            Words("undine quantize in.gguf out.gguf --type Q8_0"),
        ),
        ("undine quantize in.gguf --dry-run", Words("undine quantize in.gguf --dry-run")),
        (
            "undine llama-quantize in.gguf out.gguf Q8_0 --leave-output-tensor",
            Refused("--output-tensor-type"),
        ),
        (
            "undine perplexity -m m.gguf -f wiki.raw -ngl 99",
            Noted("undine eval m.gguf -f wiki.raw", &["-ngl"]),
        ),
        ("undine eval m -f t --kl-divergence", Refused("--against or --logits")),
        ("undine imatrix -m m.gguf -f t.txt -o i.gguf", Words("undine calibrate m.gguf -f t.txt -o i.gguf")),
    ]);
}

#[test]
fn lines_of_ollama_mean_what_they_mean_there_or_say_why_not() {
    check(&[
        (
            "undine run lfm2.5:1.2b 'Why is the sky blue?'",
            Words("undine run lfm2.5:1.2b 'Why is the sky blue?'"),
        ),
        ("undine run m --verbose hi", Words("undine run m --verbose hi")),
        ("undine run m --format json hi", Refused("response_format")),
        ("undine run m --keepalive 5m hi", Noted("undine run m hi", &["no program stays in the background"])),
        ("undine run m --nowordwrap", Words("undine run m --no-word-wrap")),
        ("undine run m --hidethinking", Words("undine run m --hide-thinking")),
        ("undine run m --think", Words("undine run m --chat-template-kwargs '{\"enable_thinking\": true}'")),
        (
            "undine run m --think=false hi",
            Words("undine run m --chat-template-kwargs '{\"enable_thinking\": false}' hi"),
        ),
        (
            "undine run m --think high hi",
            Words(
                "undine run m --chat-template-kwargs '{\"enable_thinking\": true, \"reasoning_effort\": \"high\"}' hi",
            ),
        ),
        (
            "undine run m --think hi",
            Words("undine run m --chat-template-kwargs '{\"enable_thinking\": true}' hi"),
        ),
        ("undine run m --insecure", Refused("HF_ENDPOINT")),
        ("undine list", Words("undine list")),
        ("undine ls", Words("undine ls")),
        ("undine ps", Refused("nothing runs in the background")),
        ("undine stop m", Refused("Ctrl-C ends")),
        ("undine show m --modelfile", Noted("undine show m", &["no Modelfiles"])),
        ("undine rm m", Words("undine rm m")),
        ("undine cp a b", Refused("copy or link the file")),
        ("undine create x -f Modelfile", Refused("there are no Modelfiles")),
        ("undine pull lfm2.5:1.2b", Words("undine pull lfm2.5:1.2b")),
        ("undine pull -hf a/b:Q4_0", Words("undine pull a/b:Q4_0")),
        ("undine push a/b", Refused("uploads nothing")),
        ("undine serve", Words("undine serve")),
        ("undine help", Words("undine help")),
        ("undine version", Words("undine --version")),
        ("undine -v", Words("undine --version")),
        ("undine --version", Words("undine --version")),
        ("undine signin", Refused("HF_TOKEN")),
        ("undine get lfm2.5:1.2b", Words("undine pull lfm2.5:1.2b")),
        ("undine run-batch -i a -o b", Words("undine batch -i a -o b")),
        ("undine dance", Words("undine dance")),
        ("undine", Words("undine")),
    ]);
}

#[test]
fn flags_are_known_with_underscores() {
    check(&[
        (
            "undine run m --top_p 0.9 --min_p=0.1 --top_k=5 --repetition_penalty 1.1 --show_thinking hi",
            Words(
                "undine run m --top-p 0.9 --min-p=0.1 --top-k=5 --repetition-penalty 1.1 --show-thinking hi",
            ),
        ),
        ("undine run m -p --top_p", Words("undine run m -p --top_p")),
        ("undine run m --stop=a_b --stop --c_d", Words("undine run m --stop=a_b --stop --c_d")),
        ("undine run m --no_such_flag", Words("undine run m --no_such_flag")),
        ("undine fit m --train_experts", Words("undine fit m --train-experts")),
        ("undine pull a/b --cache_dir x_y", Words("undine pull a/b --cache-dir x_y")),
        ("undine bench throughput m --input_len 8", Words("undine bench throughput m --input-len 8")),
        ("undine run m -- --top_p", Words("undine run m -- --top_p")),
    ]);
}

#[test]
fn flags_of_other_servers_and_converters_are_known() {
    check(&[
        ("undine run m --max-new-tokens 9", Words("undine run m --max-tokens 9")),
        ("undine run m --max_new_tokens=9", Words("undine run m --max-tokens 9")),
        ("undine run m --num_ctx 4096", Words("undine run m --max-model-len 4096")),
        ("undine serve m --max-seq-len 4096", Words("undine serve m --max-model-len 4096")),
        ("undine serve m --context-length 4096", Words("undine serve m --max-model-len 4096")),
        ("undine serve --model-path m", Words("undine serve m")),
        ("undine serve m --disable-radix-cache", Words("undine serve m --no-enable-prefix-caching")),
        ("undine serve m --chunked-prefill-size -1", Noted("undine serve m", &["always computed in chunks"])),
        ("undine serve m --max-total-tokens 65536", Noted("undine serve m", &["--kv-cache-memory-bytes"])),
        ("undine serve m --log-requests", Noted("undine serve m", &["without their text"])),
        ("undine serve m --max-running-requests 8", Words("undine serve m --max-num-seqs 8")),
        ("undine serve m --tp-size 2", Refused("expected 1, found 2")),
        ("undine serve --models-dir x", Refused("a server has one model")),
        ("undine serve m --models-max 4", Noted("undine serve m", &["one model"])),
        ("undine fit --model LFM2-1.2B", Words("undine fit LFM2-1.2B")),
        ("undine inspect --model m", Words("undine inspect m")),
        ("undine convert in --outfile x.gguf", Words("undine convert in x.gguf")),
        ("undine convert --outfile x.gguf in", Words("undine convert in x.gguf")),
        ("undine convert in --outfile x.gguf --outtype bf16", Words("undine convert in --type bf16 x.gguf")),
        ("undine convert in --outfile x --outtype q8_0", Refused("undine quantize IN OUT Q8_0")),
        ("undine convert --remote a/b --outfile x.gguf", Words("undine convert a/b x.gguf")),
        ("undine convert in --outfile x --dry-run", Refused("undine inspect")),
        ("undine convert in --outfile x --outtype z", Refused("expected auto, f32, f16 or bf16")),
    ]);
}

#[test]
fn offline_is_meant() {
    for (line, expected) in [
        ("undine run a/b --offline hi", Access::Offline),
        ("undine serve a/b --offline", Access::Offline),
        ("undine pull a/b --offline", Access::Offline),
        ("undine run a/b hi", Access::Online),
        ("undine run a/b -- --offline", Access::Online),
    ] {
        let rewritten = rewrite(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(rewritten.access, expected, "{line}");
        assert!(rewritten.notes.is_empty(), "{line}: {:?}", rewritten.notes);
    }
}
