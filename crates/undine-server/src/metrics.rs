//! Numbers for Prometheus, under vLLM's names, so that its dashboards work. Written by the engine's thread as
//! things happen, read by `/metrics`; every count is of what was done, not of what was asked.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use undine_core::Capacity;
use undine_engine::{EngineConfig, EngineStats, PrefixCaching};

use crate::image_metrics::ImageMetrics;

/// Seconds, of times to the first token; vLLM's buckets.
const FIRST_TOKEN_BUCKETS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// Seconds between tokens.
const TOKEN_BUCKETS: [f64; 18] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 80.0];
/// Seconds, of whole requests and their phases.
const REQUEST_BUCKETS: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
/// Rows of a step.
const STEP_BUCKETS: [f64; 15] = [
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0,
    65536.0,
];
/// Choices of a request.
const CHOICE_BUCKETS: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];
/// Why sequences end.
const END_REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

/// 1, 2, 5, 10, 20, … up to `max`, as vLLM makes buckets of token counts.
fn buckets_125(max: u32) -> Vec<f64> {
    let decades = (0..9).map(|exponent| 10u64.pow(exponent));
    let values = decades.flat_map(|decade| [decade, 2 * decade, 5 * decade]);
    values.take_while(|&value| value <= u64::from(max)).map(|value| value as f64).collect()
}

/// What holds for all HTTP requests; there before any model is.
pub(crate) struct HttpMetrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl HttpMetrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let labels = ["handler", "method", "status"];
        let requests = IntCounterVec::new(
            Opts::new("http_requests_total", "Requests answered, by handler, method and status class."),
            &labels,
        );
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "http_request_duration_seconds",
                "From a request's head to the end of its answer.",
            )
            .buckets(REQUEST_BUCKETS.to_vec()),
            &labels[..2],
        );
        let (requests, seconds) = (valid(requests), valid(seconds));
        register(&registry, &requests);
        register(&registry, &seconds);
        Self { registry, requests, seconds }
    }

    pub(crate) fn answered(&self, handler: &str, method: &str, status: u16, after: Duration) {
        let class = ["1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(status / 100).clamp(1, 5) - 1];
        self.requests.with_label_values(&[handler, method, class]).inc();
        self.seconds.with_label_values(&[handler, method]).observe(after.as_secs_f64());
    }
}

/// What holds for an engine and its model.
pub(crate) struct EngineMetrics {
    registry: Registry,
    pub(crate) running: IntGauge,
    pub(crate) waiting: IntGauge,
    waiting_for: [IntGauge; 2],
    cache_usage: [Gauge; 2],
    preemptions: IntCounter,
    prompt_tokens: IntCounter,
    pub(crate) generation_tokens: IntCounter,
    prefix: PrefixMetrics,
    pub(crate) images: ImageMetrics,
    /// By [`EndReason`].
    pub(crate) ended: [IntCounter; END_REASONS.len()],
    pub(crate) step_rows: Histogram,
    pub(crate) time_to_first_token: Histogram,
    pub(crate) inter_token_latency: Histogram,
    pub(crate) time_per_output_token: Histogram,
    pub(crate) e2e_latency: Histogram,
    pub(crate) queue_time: Histogram,
    pub(crate) prefill_time: Histogram,
    pub(crate) decode_time: Histogram,
    pub(crate) inference_time: Histogram,
    pub(crate) request_prompt_tokens: Histogram,
    pub(crate) request_generation_tokens: Histogram,
    pub(crate) request_max_generation_tokens: Histogram,
    pub(crate) params_n: Histogram,
    pub(crate) params_max_tokens: Histogram,
}

/// What the prefix cache is asked and finds, in tokens.
struct PrefixMetrics {
    queries: IntCounter,
    hits: IntCounter,
    cached: IntCounter,
    /// Computed here, found in the cache.
    by_source: [IntCounter; 2],
}

impl PrefixMetrics {
    fn new(make: &Maker<'_>) -> Self {
        let by_source = make.add(IntCounterVec::new(
            make.options(
                "prompt_tokens_by_source_total",
                "Prompt tokens, by where their keys and values came from.",
            ),
            &["source"],
        ));
        Self {
            queries: make
                .counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."),
            hits: make.counter("prefix_cache_hits_total", "Of them, those that were found."),
            cached: make.counter("prompt_tokens_cached_total", "Prompt tokens that were not computed."),
            by_source: ["local_compute", "local_cache_hit"]
                .map(|source| by_source.with_label_values(&[source])),
        }
    }
}

/// Why a sequence ended, in vLLM's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EndReason {
    Stop,
    Length,
    Abort,
    Error,
}

/// Makes metrics with the labels that all of them have.
pub(crate) struct Maker<'a> {
    registry: Registry,
    model: &'a str,
}

impl Maker<'_> {
    pub(crate) fn options(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("vllm:{name}"), help)
            .const_label("model_name", self.model)
            .const_label("engine", "0")
    }

    pub(crate) fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = valid(made);
        register(&self.registry, &metric);
        metric
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(self.options(name, help)))
    }

    fn share(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::with_opts(self.options(name, help)))
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(self.options(name, help)))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::from(self.options(name, help)).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(options))
    }
}

impl EngineMetrics {
    pub(crate) fn new(model: &str, config: &EngineConfig, capacity: &Capacity, context: u32) -> Self {
        let make = Maker { registry: Registry::new(), model };
        describe_cache(&make, config, capacity);
        let reasons = make.add(IntGaugeVec::new(
            make.options("num_requests_waiting_by_reason", "Sequences that wait, by what they wait for."),
            &["reason"],
        ));
        let ended = make.add(IntCounterVec::new(
            make.options("request_success_total", "Sequences that ended, by reason."),
            &["finished_reason"],
        ));
        let tokens = buckets_125(context);
        let usage = "Share of the blocks of keys and values that sequences hold; 1 is all.";
        let request = |name, help| make.histogram(name, help, &REQUEST_BUCKETS);
        let count = |name, help| make.histogram(name, help, &tokens);
        Self {
            running: make.gauge("num_requests_running", "Sequences being computed."),
            waiting: make.gauge("num_requests_waiting", "Sequences that wait, preempted ones too."),
            waiting_for: ["capacity", "deferred"].map(|reason| reasons.with_label_values(&[reason])),
            cache_usage: ["kv_cache_usage_perc", "gpu_cache_usage_perc"].map(|name| make.share(name, usage)),
            preemptions: make.counter("num_preemptions_total", "Times a sequence gave up its blocks."),
            prompt_tokens: make
                .counter("prompt_tokens_total", "Prompt tokens of sequences that were computed."),
            generation_tokens: make.counter("generation_tokens_total", "Tokens generated."),
            prefix: PrefixMetrics::new(&make),
            images: ImageMetrics::new(&make),
            ended: END_REASONS.map(|reason| ended.with_label_values(&[reason])),
            step_rows: make.histogram("iteration_tokens_total", "Tokens computed in a step.", &STEP_BUCKETS),
            time_to_first_token: make.histogram(
                "time_to_first_token_seconds",
                "From a request to its first token.",
                &FIRST_TOKEN_BUCKETS,
            ),
            inter_token_latency: make.histogram(
                "inter_token_latency_seconds",
                "From a token to the next.",
                &TOKEN_BUCKETS,
            ),
            time_per_output_token: make.histogram(
                "request_time_per_output_token_seconds",
                "Mean time from a token to the next, one value per sequence.",
                &TOKEN_BUCKETS,
            ),
            e2e_latency: request("e2e_request_latency_seconds", "From a request to its end."),
            queue_time: request("request_queue_time_seconds", "From a request to its first computed token."),
            prefill_time: request("request_prefill_time_seconds", "From there to its first generated token."),
            decode_time: request(
                "request_decode_time_seconds",
                "From the first generated token to the last.",
            ),
            inference_time: request(
                "request_inference_time_seconds",
                "From the first computed token to the last.",
            ),
            request_prompt_tokens: count("request_prompt_tokens", "Prompt tokens of a sequence that ended."),
            request_generation_tokens: count(
                "request_generation_tokens",
                "Tokens generated by a sequence that ended.",
            ),
            request_max_generation_tokens: count(
                "request_max_num_generation_tokens",
                "The most tokens that a sequence of a request generated.",
            ),
            params_n: make.histogram("request_params_n", "Sequences of a request.", &CHOICE_BUCKETS),
            params_max_tokens: count("request_params_max_tokens", "Most tokens a sequence may generate."),
            registry: make.registry,
        }
    }

    /// Takes over the engine's own counts. Only one thread may call this.
    pub(crate) fn publish(&self, stats: &EngineStats) {
        self.running.set(stats.running.into());
        self.waiting.set(stats.waiting.into());
        self.waiting_for[0].set(stats.waiting.saturating_sub(stats.waiting_deferred).into());
        self.waiting_for[1].set(stats.waiting_deferred.into());
        let usage = f64::from(stats.blocks_used) / f64::from(stats.blocks_total.max(1));
        self.cache_usage.iter().for_each(|gauge| gauge.set(usage));
        self.images.publish(stats);
        for (counter, total) in [
            (&self.preemptions, stats.preemptions),
            (&self.prompt_tokens, stats.prompt_tokens_total),
            (&self.generation_tokens, stats.generation_tokens_total),
            (&self.prefix.queries, stats.prefix_cache_queries_total),
            (&self.prefix.hits, stats.prefix_cache_hits_total),
            (&self.prefix.cached, stats.prompt_tokens_cached_total),
            (&self.prefix.by_source[0], stats.prompt_tokens_computed_total),
            (&self.prefix.by_source[1], stats.prompt_tokens_cached_total),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    pub(crate) fn ended(&self, reason: EndReason) {
        self.ended[reason as usize].inc();
    }
}

/// `vllm:cache_config_info`: the settings of the cache as labels of a constant 1.
fn describe_cache(make: &Maker<'_>, config: &EngineConfig, capacity: &Capacity) {
    let options = make
        .options("cache_config_info", "Settings of the cache of keys and values.")
        .const_label("block_size", capacity.block_size.to_string())
        .const_label("num_gpu_blocks", capacity.blocks.to_string())
        .const_label(
            "enable_prefix_caching",
            if config.prefix_caching == PrefixCaching::On { "True" } else { "False" },
        )
        .const_label("max_num_seqs", config.max_num_seqs.to_string())
        .const_label("max_model_len", config.max_model_len.to_string());
    make.add(IntGauge::with_opts(options)).set(1);
}

fn valid<C>(made: prometheus::Result<C>) -> C {
    made.expect("names, labels and buckets are constants and valid")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: &C) {
    registry.register(Box::new(metric.clone())).expect("every metric is registered once");
}

/// All of it in Prometheus' text format.
pub(crate) fn render(http: &HttpMetrics, engine: Option<&EngineMetrics>) -> String {
    let mut families = http.registry.gather();
    families.extend(engine.map(|engine| engine.registry.gather()).unwrap_or_default());
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_counts_are_vllms() {
        assert_eq!(buckets_125(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(buckets_125(30), [1.0, 2.0, 5.0, 10.0, 20.0]);
    }
}
