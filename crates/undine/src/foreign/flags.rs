//! The flags of llama.cpp's programs, and the names of the model that other programs have.

use super::Meaning::{Always, Judged, KvType, Model, Offline, Own, Read, RepoFile, Sampling, Unless, Words};
use super::Takes::{self, Nothing, OneOf, Value};
use super::Verdict::{NoEffect, Refused};
use super::{Meaning, Row, values};

const RUN: &[&str] = &["run"];
const SERVE: &[&str] = &["serve"];
const BOTH: &[&str] = &["run", "serve"];
const BENCH: &[&str] = &["bench"];
const QUANTIZE: &[&str] = &["quantize"];
const EVAL: &[&str] = &["eval", "calibrate"];
const PULL: &[&str] = &["pull"];
/// Those that compute.
const ENGINE: &[&str] =
    &["run", "serve", "batch", "bench", "bench-throughput", "bench-latency", "eval", "calibrate"];
/// Those that may fetch a model.
const HUB: &[&str] = &[
    "run",
    "serve",
    "batch",
    "inspect",
    "bench",
    "bench-throughput",
    "bench-latency",
    "bench-serve",
    "eval",
    "calibrate",
    "quantize",
    "convert",
    "pull",
];
/// Those that take a model as their first argument.
const MODEL: &[&str] = &[
    "run",
    "serve",
    "batch",
    "inspect",
    "show",
    "bench",
    "bench-throughput",
    "bench-latency",
    "fit",
    "eval",
    "calibrate",
];

const SWITCH: Takes = OneOf(&["on", "off", "auto", "0", "1", "true", "false", "enabled", "disabled"]);
/// What turns a switch off, or asks for nothing.
const OFF: &[&str] = &["0", "off", "false", "none", "disabled", "-1", "auto", ""];

const NO_GPU: &str = "there is no GPU backend; everything is computed on the CPU";
pub(super) const ONE_MACHINE: &str = "one process computes on this machine";
const NO_ADAPTERS: &str = "adapters are not applied at run time; merge them into the model first";
const NO_DRAFT: &str = "nothing is speculated; answers are the same without";
pub(super) const NO_EMBEDDINGS: &str = "models here generate text; there are no embeddings";
const OWN_ROPE: &str = "positions are as the model's own configuration has them";
const OWN_METADATA: &str = "a model's metadata is used as it is; edit the file";
pub(super) const UNCONSTRAINED: &str =
    "`undine run` does not constrain answers; `undine serve` does, with response_format in a request";
const FILTERS: &str = "tokens are chosen by temperature, top-k, top-p, min-p and the three penalties";
const PAGES: &str = "memory is mapped and copied as --huge-pages says";
const OWN_THREADS: &str = "threads are placed by the program; see --threads";
const BATCHES: &str = "prompts are computed in steps of a fixed size; the answers are the same";
const FOUND: &str = "what has been computed is found again by itself";
const NO_LOG: &str = "there is no log to set; --verbose prints numbers";
const NO_PAGE: &str = "there is no page in the server; any client of OpenAI's interface works with it";
const ONE_MODEL: &str = "a server has one model: `undine serve MODEL`, and another one on another port";
const TOKEN: &str = "put the token into HF_TOKEN; a command line is no place for secrets";

pub(super) const fn row(
    on: &'static [&'static str],
    names: &'static str,
    takes: Takes,
    meaning: Meaning,
) -> Row {
    Row { on, names, takes, meaning }
}

/// All of them. Where one flag means different things to different commands, it has several rows.
pub(super) const FLAGS: &[Row] = &[
    // Which model.
    row(MODEL, "-m", Value, Model),
    row(&["run", "bench", "eval", "calibrate", "inspect", "show", "fit", "pull"], "--model", Value, Model),
    row(MODEL, "--model-path --model-id", Value, Model),
    row(&["bench-serve"], "-m", Value, Own("--model")),
    row(MODEL, "-hf -hfr --hf-repo", Value, Model),
    row(PULL, "-hf -hfr --hf-repo", Value, Model),
    row(MODEL, "-hff --hf-file", Value, RepoFile),
    row(PULL, "-hff --hf-file", Value, RepoFile),
    row(MODEL, "-mu --model-url", Value, Model),
    row(RUN, "-hft --hf-token", Value, Judged(Refused(TOKEN))),
    row(SERVE, "-hft", Value, Judged(Refused(TOKEN))),
    row(BENCH, "-hft --hf-token", Value, Judged(Refused(TOKEN))),
    row(BOTH, "-mmu --mmproj-url", Value, Judged(Refused("fetch the file and name it with --mmproj"))),
    row(BOTH, "-mm", Value, Own("--mmproj")),
    row(
        BOTH,
        "--no-mmproj --no-mmproj-auto",
        Nothing,
        Judged(NoEffect("the vision tower takes memory only once a picture comes")),
    ),
    row(BOTH, "--mmproj-auto --mmproj-offload --no-mmproj-offload", Nothing, Always),
    row(
        BOTH,
        "--lora --lora-scaled --control-vector --control-vector-scaled",
        Value,
        Judged(Refused(NO_ADAPTERS)),
    ),
    row(BOTH, "--lora-init-without-apply", Nothing, Judged(Refused(NO_ADAPTERS))),
    row(ENGINE, "--override-kv", Value, Judged(Refused(OWN_METADATA))),
    row(HUB, "--offline", Nothing, Offline),
    row(BOTH, "--check-tensors", Nothing, Always),
    row(
        BOTH,
        "-md --model-draft --spec-draft-model -hfd --hf-repo-draft --draft --draft-max --draft-min --draft-n --draft-n-min \
         --draft-p-min -ngld --gpu-layers-draft --n-gpu-layers-draft -cd --ctx-size-draft -devd --device-draft -ctkd -ctvd \
         --cache-type-k-draft --cache-type-v-draft -td --threads-draft --spec-type",
        Value,
        Judged(NoEffect(NO_DRAFT)),
    ),
    // Where it is computed.
    row(ENGINE, "-ngl --gpu-layers --n-gpu-layers", Value, Unless(OFF, NoEffect(NO_GPU))),
    row(
        ENGINE,
        "-sm --split-mode -ts --tensor-split -mg --main-gpu -dev -ot --override-tensor -ncmoe --n-cpu-moe -fitt -fitc",
        Value,
        Unless(OFF, NoEffect(NO_GPU)),
    ),
    row(
        &["run", "bench", "eval", "calibrate"],
        "--device",
        Value,
        Unless(&["cpu", "none", "auto"], NoEffect(NO_GPU)),
    ),
    row(
        ENGINE,
        "-kvo --kv-offload -nkvo --no-kv-offload -cmoe --cpu-moe --no-op-offload --op-offload --no-host -bt --list-devices",
        Nothing,
        Judged(NoEffect(NO_GPU)),
    ),
    row(ENGINE, "-fit --fit", SWITCH, Always),
    row(ENGINE, "--rpc", Value, Judged(Refused(ONE_MACHINE))),
    row(
        ENGINE,
        "-fa --flash-attn --flash-attention",
        SWITCH,
        Unless(
            &["on", "auto", "1", "true", "enabled", ""],
            NoEffect("attention is computed in one way, and exactly"),
        ),
    ),
    row(ENGINE, "-ctk --cache-type-k -ctv --cache-type-v", Value, KvType),
    row(ENGINE, "--mlock", Nothing, Judged(NoEffect(PAGES))),
    row(ENGINE, "--mmap -mmap -mmp", SWITCH, Unless(&["1", "on", ""], NoEffect(PAGES))),
    row(ENGINE, "--no-mmap -nommap", Nothing, Judged(NoEffect(PAGES))),
    row(
        ENGINE,
        "-dio --direct-io -ndio --no-direct-io --repack -nr --no-repack --no-kv-unified",
        Nothing,
        Judged(NoEffect(PAGES)),
    ),
    row(
        ENGINE,
        "--numa --prio --prio-batch --poll --poll-batch -C --cpu-mask -Cr --cpu-range -Cb --cpu-mask-batch -Crb --cpu-range-batch --cpu-strict --cpu-strict-batch",
        Value,
        Unless(OFF, NoEffect(OWN_THREADS)),
    ),
    row(
        ENGINE,
        "-tb --threads-batch",
        Value,
        Judged(NoEffect("prompts and answers are computed by the same threads; see --threads")),
    ),
    row(BOTH, "-t --threads", Value, Read(values::threads)),
    row(BENCH, "-t --threads", Value, Read(values::one_thread_count)),
    row(RUN, "-b --batch-size -ub --ubatch-size", Value, Judged(NoEffect(BATCHES))),
    row(SERVE, "-b --batch-size", Value, Judged(NoEffect(BATCHES))),
    row(SERVE, "-ub --ubatch-size", Value, Own("--max-num-batched-tokens")),
    row(BENCH, "-b --batch-size", Value, Judged(NoEffect(BATCHES))),
    row(BENCH, "-ub --ubatch-size", Value, Own("--ubatch")),
    // How much.
    row(RUN, "-c --ctx-size --ctx --max-model-len --context-length --num-ctx", Value, Read(values::context)),
    row(SERVE, "-c --ctx-size --ctx --context-length --num-ctx --max-seq-len", Value, Read(values::context)),
    row(
        RUN,
        "-n --predict --n-predict --num-predict --max-tokens --max-new-tokens",
        Value,
        Read(values::most_tokens),
    ),
    row(SERVE, "-n --predict --n-predict", Value, Unless(OFF, NoEffect("clients say max_tokens"))),
    row(SERVE, "-np --parallel", Value, Read(values::parallel)),
    row(
        RUN,
        "-np --parallel",
        Value,
        Unless(&["1", "-1"], NoEffect("`undine run` answers one prompt at a time; `undine serve` many")),
    ),
    row(
        BOTH,
        "-ns --sequences --keep",
        Value,
        Judged(NoEffect("a conversation that fills the context ends there, and says so")),
    ),
    row(BOTH, "--no-context-shift -nocs", Nothing, Always),
    row(
        BOTH,
        "--context-shift -cs",
        Nothing,
        Judged(NoEffect("a conversation that fills the context ends there, and says so")),
    ),
    row(BOTH, "-gan --grp-attn-n -gaw --grp-attn-w", Value, Judged(Refused(OWN_ROPE))),
    row(
        BOTH,
        "--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor \
         --yarn-beta-slow --yarn-beta-fast",
        Value,
        Unless(&["none", "0", "1", "-1", "1.0", "-1.0"], Refused(OWN_ROPE)),
    ),
    row(BOTH, "--swa-full -kvu --kv-unified", Nothing, Always),
    // What is said to it.
    row(RUN, "-sys --system-prompt", Value, Own("--system")),
    row(RUN, "-sysf --system-prompt-file", Value, Own("--system-file")),
    row(RUN, "-bf --binary-file", Value, Judged(Refused("a prompt is UTF-8 text: -f FILE"))),
    row(RUN, "-e --escape", Nothing, Own("--escape")),
    row(RUN, "--no-escape", Nothing, Always),
    row(RUN, "-st --single-turn", Nothing, Always),
    row(RUN, "-cnv --conversation -i --interactive -if --interactive-first", Nothing, Own("--interactive")),
    row(RUN, "-no-cnv -nocnv --no-conversation", Nothing, Words(&["--raw"])),
    row(BOTH, "--jinja", Nothing, Always),
    row(BOTH, "--no-jinja", Nothing, Judged(NoEffect("a chat template is always a Jinja template"))),
    row(
        RUN,
        "--chat-template --chat-template-file",
        Value,
        Judged(Refused(
            "`undine run` uses the model's own template; `undine serve` takes another with --chat-template FILE",
        )),
    ),
    row(SERVE, "--chat-template-file", Value, Own("--chat-template")),
    row(RUN, "--chat-template-kwargs", Value, Own("--chat-template-kwargs")),
    row(SERVE, "--chat-template-kwargs", Value, Own("--default-chat-template-kwargs")),
    row(
        BOTH,
        "--skip-chat-parsing",
        Nothing,
        Judged(NoEffect("see --reasoning-parser and --tool-call-parser of `undine serve`")),
    ),
    row(RUN, "-r --reverse-prompt", Value, Own("--stop")),
    row(
        RUN,
        "--in-prefix --in-suffix",
        Value,
        Judged(Refused("the model's chat template says what stands around a message")),
    ),
    row(
        RUN,
        "--in-prefix-bos --spm-infill",
        Nothing,
        Judged(Refused("the model's chat template says what stands around a message")),
    ),
    row(
        RUN,
        "--prompt-cache",
        Value,
        Judged(NoEffect("nothing is kept between two runs; `undine serve` keeps what it has computed")),
    ),
    row(
        RUN,
        "--prompt-cache-all --prompt-cache-ro",
        Nothing,
        Judged(NoEffect("nothing is kept between two runs; `undine serve` keeps what it has computed")),
    ),
    row(
        RUN,
        "-mli --multiline-input",
        Nothing,
        Judged(NoEffect("a line that ends in \\ goes on, and \"\"\" begins a text of several lines")),
    ),
    // How tokens are chosen.
    row(BOTH, "-s --seed", Value, Read(values::seed)),
    row(SERVE, "--temp --temperature", Value, Sampling("temperature")),
    row(SERVE, "--top-k", Value, Sampling("top_k")),
    row(SERVE, "--top-p", Value, Sampling("top_p")),
    row(SERVE, "--min-p", Value, Sampling("min_p")),
    row(SERVE, "--repeat-penalty --repetition-penalty", Value, Sampling("repetition_penalty")),
    row(SERVE, "--presence-penalty", Value, Sampling("presence_penalty")),
    row(SERVE, "--frequency-penalty", Value, Sampling("frequency_penalty")),
    row(
        BOTH,
        "--repeat-last-n",
        Value,
        Unless(&["-1"], NoEffect("penalties look at all of prompt and answer")),
    ),
    row(BOTH, "--samplers --sampler-seq --sampling-seq", Value, Judged(NoEffect(FILTERS))),
    row(
        BOTH,
        "--typical --typical-p --adaptive-target --adaptive-decay",
        Value,
        Unless(&["1", "1.0", "-1"], Refused(FILTERS)),
    ),
    row(
        BOTH,
        "--xtc-probability --dry-multiplier --mirostat --dynatemp-range --top-nsigma --top-n-sigma",
        Value,
        Unless(&["0", "0.0", "0.00", "-1", "-1.0", "-1.00"], Refused(FILTERS)),
    ),
    row(
        BOTH,
        "--xtc-threshold --dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker --mirostat-lr \
         --mirostat-ent --dynatemp-exp",
        Value,
        Judged(NoEffect(FILTERS)),
    ),
    row(BOTH, "-l --logit-bias", Value, Judged(Refused("a request to `undine serve` may have a logit_bias"))),
    row(
        BOTH,
        "--ignore-eos",
        Nothing,
        Judged(Refused("answers end where the model ends them; `undine bench` decodes without an end")),
    ),
    row(
        BOTH,
        "--grammar --grammar-file -j --json-schema -jf --json-schema-file",
        Value,
        Judged(Refused(UNCONSTRAINED)),
    ),
    row(BOTH, "-bs --backend-sampling", Nothing, Judged(NoEffect(NO_GPU))),
    // What is shown.
    row(
        RUN,
        "-co --color",
        SWITCH,
        Judged(NoEffect("a thought is dim on a terminal; NO_COLOR=1 turns colours off")),
    ),
    row(
        RUN,
        "--simple-io --display-prompt --no-display-prompt -ptc-off --perf --no-perf --no-warmup --warmup --no-ppl",
        Nothing,
        Always,
    ),
    row(
        RUN,
        "-sp --special",
        Nothing,
        Judged(NoEffect("marks of tool calls are always shown; --raw shows those of thoughts")),
    ),
    row(RUN, "--show-timings -vp --verbose-prompt", Nothing, Words(&["--verbose"])),
    row(RUN, "--no-show-timings", Nothing, Always),
    row(RUN, "-ptc --print-token-count", Value, Judged(NoEffect("--verbose prints numbers"))),
    row(RUN, "-lv --verbosity --log-verbosity --log-file --log-colors", Value, Judged(NoEffect(NO_LOG))),
    row(
        RUN,
        "--log-disable --log-verbose --log-prefix --no-log-prefix --log-timestamps --no-log-timestamps",
        Nothing,
        Always,
    ),
    row(SERVE, "-v --verbose --log-verbose", Nothing, Words(&["--log-level", "debug"])),
    row(SERVE, "-lv --verbosity --log-verbosity", Value, Judged(NoEffect("see --log-level"))),
    row(SERVE, "--log-disable", Nothing, Words(&["--log-level", "error", "--disable-log-requests"])),
    row(SERVE, "--log-file", Value, Judged(NoEffect("the log is standard error: 2> FILE"))),
    row(SERVE, "--log-colors", Value, Judged(NoEffect("NO_COLOR=1 turns colours off"))),
    row(SERVE, "--log-prefix --no-log-prefix --log-timestamps --no-log-timestamps", Nothing, Always),
    row(BOTH, "--usage", Nothing, Words(&["--help"])),
    row(RUN, "--reasoning-format", Value, Read(values::reasoning_shown)),
    row(SERVE, "--reasoning-format", Value, Read(values::reasoning_parser)),
    row(RUN, "--reasoning-budget", Value, Read(values::thinking_budget)),
    row(SERVE, "--reasoning-budget", Value, Read(values::reasoning_budget)),
    row(
        SERVE,
        "-rea --reasoning",
        SWITCH,
        Judged(NoEffect("chat_template_kwargs {\"enable_thinking\": false} answers directly")),
    ),
    row(BOTH, "--prefill-assistant --no-prefill-assistant", Nothing, Always),
    // The server.
    row(SERVE, "-a --alias", Value, Own("--served-model-name")),
    row(SERVE, "--api-prefix", Value, Own("--root-path")),
    row(SERVE, "--ssl-key-file", Value, Own("--ssl-keyfile")),
    row(SERVE, "--ssl-cert-file", Value, Own("--ssl-certfile")),
    row(
        SERVE,
        "-to --timeout --threads-http",
        Value,
        Judged(NoEffect("connections and waiting are bounded; see --max-connections")),
    ),
    row(
        SERVE,
        "--cache-reuse -cram --cache-ram --slot-prompt-similarity -sps --ctx-checkpoints --swa-checkpoints -ctxcp",
        Value,
        Unless(&["0"], NoEffect(FOUND)),
    ),
    row(SERVE, "--slot-save-path", Value, Judged(NoEffect(FOUND))),
    row(
        SERVE,
        "--cache-prompt -cb --cont-batching --metrics --props --slots --no-slots --no-warmup --warmup",
        Nothing,
        Always,
    ),
    row(SERVE, "--no-cache-prompt", Nothing, Words(&["--no-enable-prefix-caching"])),
    row(
        SERVE,
        "-nocb --no-cont-batching",
        Nothing,
        Judged(NoEffect("requests are always computed together")),
    ),
    row(SERVE, "--webui --ui", Nothing, Judged(NoEffect(NO_PAGE))),
    row(SERVE, "--no-webui --no-ui", Nothing, Always),
    row(SERVE, "--path --webui-config --webui-config-file", Value, Judged(NoEffect(NO_PAGE))),
    row(SERVE, "--media-path", Value, Own("--allowed-local-media-path")),
    row(SERVE, "--models-dir --models-preset", Value, Judged(Refused(ONE_MODEL))),
    row(SERVE, "--models-max", Value, Judged(NoEffect(ONE_MODEL))),
    row(SERVE, "--models-autoload --no-models-autoload", Nothing, Judged(NoEffect(ONE_MODEL))),
    row(
        SERVE,
        "--sleep-idle-seconds",
        Value,
        Judged(NoEffect("a model stays in memory until its server ends")),
    ),
    row(SERVE, "--embedding --embeddings --rerank --reranking", Nothing, Judged(Refused(NO_EMBEDDINGS))),
    row(SERVE, "--pooling", Value, Judged(Refused(NO_EMBEDDINGS))),
    row(
        SERVE,
        "--image-min-tokens --image-max-tokens",
        Value,
        Judged(Refused("use --mm-processor-kwargs '{\"min_image_tokens\": N}' or max_image_tokens")),
    ),
    // llama-bench.
    row(BENCH, "-o --output", Value, Own("--output")),
    row(
        BENCH,
        "-pg",
        Value,
        Judged(Refused("a prompt and an answer in one test: `undine bench throughput`")),
    ),
    row(
        BENCH,
        "-oe --output-err --delay",
        Value,
        Judged(NoEffect("results go to standard output, one test after the other")),
    ),
    row(BENCH, "--progress -v --verbose", Nothing, Always),
    row(BENCH, "--no-warmup", Nothing, Words(&["--warmup", "0"])),
    row(BENCH, "-embd --embeddings", Value, Unless(OFF, Refused("models here generate text"))),
    // llama-perplexity and llama-imatrix.
    row(EVAL, "--file", Value, Own("--text")),
    row(EVAL, "--ctx-size", Value, Own("--context")),
    row(
        EVAL,
        "-n -ub --ubatch-size --kl-divergence-base --ppl-stride --output-frequency --save-frequency --in-file",
        Value,
        Judged(Refused(
            "see `undine eval --help`: --logits, --save-logits and --stride, and `undine calibrate --help`",
        )),
    ),
    row(
        &["eval"],
        "--kl-divergence --hellaswag --winogrande --multiple-choice",
        Nothing,
        Judged(Refused(
            "--against or --logits compare with another model; other tests are for programs that ask a server, such as lm-eval",
        )),
    ),
    row(EVAL, "--process-output --parse-special --no-ppl", Nothing, Always),
    // llama-quantize.
    row(
        QUANTIZE,
        "--leave-output-tensor",
        Nothing,
        Judged(Refused("name the type that the head has: --output-tensor-type BF16")),
    ),
    row(
        QUANTIZE,
        "--include-weights --exclude-weights --prune-layers --override-kv --tensor-type-file",
        Value,
        Judged(Refused("--tensor-type PATTERN=TYPE chooses types; metadata and layers stay as they are")),
    ),
    row(QUANTIZE, "--keep-split", Nothing, Judged(NoEffect("one file is written"))),
];
