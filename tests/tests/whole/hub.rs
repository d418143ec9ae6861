//! Pulling models from a hub with faults: what arrives is right, what went wrong is told, what was there is
//! kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use undine_hub::{
    Access, Beginning, Error, Event, Hub, HubName, ModelName, Next, Progress, PullRequest, Pulled, Settings,
    Token,
};
use undine_tests::local_hub::{Faults, HubRepo, LocalHub, noise};

const REPO: &str = "acme/tiny-GGUF";
/// Several chunks of 4 MiB, and one that is not full.
const LARGE_BYTES: usize = (18 << 20) + 12345;

fn repo() -> HubRepo {
    HubRepo::new(&[
        ("tiny-Q4_K_M.gguf", noise(LARGE_BYTES, 1)),
        ("tiny-Q8_0.gguf", noise(2 * LARGE_BYTES, 2)),
        ("README.md", b"---\nlicense: other\n---\n# Tiny\n".to_vec()),
        ("empty.txt", Vec::new()),
    ])
}

/// A hub with one repository, and a cache.
struct Bench {
    hub: LocalHub,
    folder: tempfile::TempDir,
    settings: Settings,
}

impl Bench {
    fn new() -> Self {
        let hub = LocalHub::start();
        hub.set_repo(REPO, repo());
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings {
            endpoint: hub.url().parse().expect("a URL"),
            token: None,
            cache: folder.path().join("hub"),
            access: Access::Online,
            stall: Duration::from_secs(2),
            first_delay: Duration::from_millis(5),
        };
        Self { hub, folder, settings }
    }

    fn pull(&self, name: &str) -> Result<Pulled, Error> {
        let name = HubName::parse(name).expect("a name");
        self.client().pull(&PullRequest::new(name, None), |_| {})
    }

    fn client(&self) -> Hub {
        Hub::new(self.settings.clone()).expect("threads")
    }

    fn repo_folder(&self) -> PathBuf {
        self.folder.path().join("hub/models--acme--tiny-GGUF")
    }

    /// Names of the files that hold contents.
    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.repo_folder().join("blobs")) else { return Vec::new() };
        entries.map(|entry| entry.expect("reads").file_name().into_string().expect("UTF-8")).collect()
    }
}

fn name(text: &str) -> HubName {
    HubName::parse(text).expect("a name")
}

fn assert_content(pulled: &Pulled, seed: u64, length: usize) {
    assert!(fs::read(&pulled.cached.path).expect("reads") == noise(length, seed), "the content is another");
}

#[test]
fn what_is_fetched_lies_where_hugging_face_tools_look_for_it() {
    let bench = Bench::new();
    let pulled = bench.pull("acme/tiny-GGUF:q4_k_m").expect("pulls");
    assert_content(&pulled, 1, LARGE_BYTES);
    assert_eq!(pulled.license.as_deref(), Some("lfm1.0"));
    let (commit, folder) = (repo().commit().to_owned(), bench.repo_folder());
    assert_eq!(fs::read_to_string(folder.join("refs/main")).expect("reads"), commit);
    let link = folder.join("snapshots").join(&commit).join("tiny-Q4_K_M.gguf");
    assert_eq!(pulled.cached.path, link);
    let target = fs::read_link(&link).expect("a link");
    assert!(
        target.starts_with("../../blobs") && target.file_name().expect("a name").len() == 64,
        "{target:?}"
    );
    assert!(folder.join("snapshots").join(&commit).join("README.md").exists());
    let locks = bench.folder.path().join("hub/.locks/models--acme--tiny-GGUF");
    assert_eq!(fs::read_dir(locks).expect("reads").count(), 2);
    assert_eq!(bench.blobs().len(), 2, "{:?}", bench.blobs());
    assert!(bench.folder.path().join("hub/CACHEDIR.TAG").exists());
    // Found again without the hub, and not fetched twice.
    let cache = bench.client().cache().clone();
    let found = cache.find(&name("acme/tiny-GGUF"), None).expect("reads").expect("is there");
    assert_eq!((found.path, found.name.to_string()), (link, "acme/tiny-GGUF:Q4_K_M".to_owned()));
    assert!(cache.find(&name("acme/tiny-GGUF:Q8_0"), None).expect("reads").is_none());
    bench.hub.take_sent();
    assert_eq!(bench.pull("acme/tiny-GGUF:Q4_K_M").expect("pulls").fetched_bytes, 0);
    assert_eq!(bench.hub.take_sent(), 0);
}

#[test]
fn faults_of_the_network_are_survived() {
    let headers = |status, header| [(status, header)].into_iter().collect();
    let cases: Vec<(&str, Faults)> = vec![
        ("cuts", Faults { cuts: 20, cut_after: 3 << 20, ..Faults::default() }),
        ("cuts in every chunk", Faults { cuts: 12, cut_after: 100_000, ..Faults::default() }),
        ("a stall", Faults { stalls: 1, cut_after: 1 << 20, ..Faults::default() }),
        ("no ranges", Faults { no_ranges: true, ..Faults::default() }),
        ("no ranges and a cut", Faults { no_ranges: true, cuts: 4, cut_after: 9 << 20, ..Faults::default() }),
        (
            "too many requests",
            Faults { answers: headers(429, Some(("Retry-After", "1".to_owned()))), ..Faults::default() },
        ),
        (
            "a server that starts",
            Faults { answers: [(503, None), (500, None), (503, None)].into(), ..Faults::default() },
        ),
        ("no listing", Faults { no_listing: true, ..Faults::default() }),
        (
            "addresses expire",
            Faults { address_uses_max: Some(2), cuts: 9, cut_after: 1 << 20, ..Faults::default() },
        ),
    ];
    for (what, faults) in cases {
        let bench = Bench::new();
        bench.hub.set_faults(faults);
        let pulled = bench.pull("acme/tiny-GGUF:Q4_K_M").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_content(&pulled, 1, LARGE_BYTES);
        assert_eq!(bench.blobs().len(), 2, "{what}: {:?}", bench.blobs());
    }
}

#[test]
fn a_hub_that_asks_to_wait_is_waited_for() {
    let bench = Bench::new();
    bench.hub.set_faults(Faults {
        answers: [(429, Some(("Retry-After", "1".to_owned())))].into(),
        ..Faults::default()
    });
    let started = std::time::Instant::now();
    bench.pull("acme/tiny-GGUF/README.md").expect("pulls");
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    bench.hub.set_faults(Faults {
        answers: [(429, Some(("Retry-After", "86400".to_owned())))].into(),
        ..Faults::default()
    });
    let message = bench.pull("acme/tiny-GGUF").expect_err("a day is too long").to_string();
    assert!(message.contains("86400 s"), "{message}");
}

#[test]
fn what_cannot_be_had_is_said() {
    let refused = |status, code| Faults { refusal: Some((status, code)), ..Faults::default() };
    for (faults, text, parts) in [
        (refused(401, "RepoNotFound"), REPO, &["acme/tiny-GGUF", "private", "HF_TOKEN"][..]),
        (refused(403, "GatedRepo"), REPO, &["gated", "/acme/tiny-GGUF", "HF_TOKEN"]),
        (Faults::default(), "acme/none", &["no repository acme/none", "http://127.0.0.1"]),
        (Faults::default(), "LiquidAI/LFM2-1.2-GGUF", &["did you mean", "LiquidAI/LFM2-1.2B-GGUF"]),
        (Faults::default(), "acme/tiny-GGUF@v7", &["no revision \"v7\"", "main, v1"]),
        (Faults::default(), "acme/tiny-GGUF:Q2_K", &["no quantization Q2_K", "Q8_0, Q4_K_M"]),
        (Faults::default(), "acme/tiny-GGUF/x.gguf", &["no file x.gguf", "tiny-Q8_0.gguf"]),
        // Sizes whose sum is more than a number holds.
        (
            Faults { claimed_bytes: Some(u64::MAX), ..Faults::default() },
            REPO,
            &["18446744073709551615 bytes, expected at most"],
        ),
        (
            Faults { cuts: 99, cut_after: 0, ..Faults::default() },
            REPO,
            &["10 times in a row", "goes on from there"],
        ),
    ] {
        let bench = Bench::new();
        bench.hub.set_faults(faults);
        let message = bench.pull(text).expect_err("cannot be had").to_string();
        for part in parts {
            assert!(message.contains(part), "{text}: {part}: {message}");
        }
        assert!(
            !bench.repo_folder().join("refs").exists() && !bench.repo_folder().join("snapshots").exists()
        );
    }
}

#[test]
fn what_is_not_as_described_is_thrown_away() {
    for (faults, text, part) in [
        (Faults { wrong_bytes: true, ..Faults::default() }, "acme/tiny-GGUF:Q4_K_M", "SHA-256"),
        (Faults { wrong_bytes: true, ..Faults::default() }, "acme/tiny-GGUF/README.md", "git SHA-1"),
        (Faults { extra_bytes: 7, ..Faults::default() }, "acme/tiny-GGUF:Q4_K_M", "18886720 bytes"),
        (
            Faults { extra_bytes: 7, ..Faults::default() },
            "acme/tiny-GGUF/README.md",
            "expected 30 bytes, found 37",
        ),
        (
            Faults { extra_bytes: 7, no_ranges: true, ..Faults::default() },
            "acme/tiny-GGUF:Q4_K_M",
            "18886720 bytes",
        ),
    ] {
        let bench = Bench::new();
        // One file, so that no other is found to be damaged first.
        let card = b"---\nlicense: other\n---\n# Tiny\n".to_vec();
        let model = ("tiny-Q4_K_M.gguf", noise(LARGE_BYTES, 1));
        bench
            .hub
            .set_repo(REPO, HubRepo::new(&[if text.ends_with("md") { ("README.md", card) } else { model }]));
        bench.hub.set_faults(faults);
        let error = bench.pull(text).expect_err("is damaged");
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{text}: {error}");
        let left: Vec<String> = bench.blobs().into_iter().filter(|blob| blob.contains("undine")).collect();
        assert_eq!(left, [""; 0], "{text}");
        bench.hub.set_faults(Faults::default());
        bench.pull(text).expect("the next time it is right");
    }
}

#[test]
fn the_token_reaches_the_hub_and_nobody_else() {
    let mut bench = Bench::new();
    bench.hub.set_faults(Faults { token: Some("hf_secret".to_owned()), ..Faults::default() });
    let message = bench.pull(REPO).expect_err("needs a token").to_string();
    assert!(message.contains("set HF_TOKEN"), "{message}");
    bench.settings.token = Token::new("hf_wrong", "a test").expect("a token");
    let message = bench.pull(REPO).expect_err("needs another").to_string();
    assert!(message.contains("may not read it") && !message.contains("hf_wrong"), "{message}");
    bench.settings.token = Token::new("hf_secret", "a test").expect("a token");
    bench.hub.take_seen();
    bench.pull(REPO).expect("pulls");
    let seen = bench.hub.take_seen();
    assert!(seen.iter().any(|seen| seen.is_content_host) && seen.iter().any(|seen| !seen.is_content_host));
    for seen in seen {
        let expected = (!seen.is_content_host).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(seen.authorization, expected, "{seen:?}");
    }
}

/// Bytes that arrive before the hub is gone.
const BUDGET: u64 = 12 << 20;
/// Bytes that a connection may have to fetch again.
const CHUNK_BYTES: u64 = 1 << 20;

#[test]
fn a_pull_goes_on_where_the_last_one_ended() {
    let bench = Bench::new();
    bench.hub.set_faults(Faults { budget: Some(BUDGET), ..Faults::default() });
    let retries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&retries);
    let on_event = move |event: Event<'_>| {
        if let Event::File { progress: Progress::Retrying { .. }, .. } = event {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    let request = PullRequest::new(name("acme/tiny-GGUF/tiny-Q4_K_M.gguf"), None);
    bench.client().pull(&request, on_event).expect_err("the hub is gone");
    assert!(retries.load(Ordering::Relaxed) > 0);
    let cache = bench.client().cache().clone();
    assert!(cache.find(&request.name, None).expect("reads").is_none(), "half a file is no model");
    assert!(cache.list().expect("reads").is_empty());
    bench.hub.set_faults(Faults::default());
    let pulled = bench.pull("acme/tiny-GGUF/tiny-Q4_K_M.gguf").expect("pulls");
    assert_content(&pulled, 1, LARGE_BYTES);
    let most = LARGE_BYTES as u64 + 30 - BUDGET + 8 * CHUNK_BYTES;
    assert!(pulled.fetched_bytes < most, "{} of {most}", pulled.fetched_bytes);
}

#[test]
fn a_file_that_has_changed_since_begins_anew() {
    let bench = Bench::new();
    bench.hub.set_faults(Faults { budget: Some(BUDGET), ..Faults::default() });
    bench.pull("acme/tiny-GGUF/tiny-Q4_K_M.gguf").expect_err("the hub is gone");
    bench.hub.set_faults(Faults::default());
    bench.hub.set_repo(REPO, HubRepo::new(&[("tiny-Q4_K_M.gguf", noise(LARGE_BYTES, 9))]));
    let pulled = bench.pull("acme/tiny-GGUF/tiny-Q4_K_M.gguf").expect("pulls");
    assert_content(&pulled, 9, LARGE_BYTES);
    assert_eq!(pulled.fetched_bytes, LARGE_BYTES as u64);
    // The card may have arrived; of the old content nothing is left.
    let left: Vec<String> = bench.blobs().into_iter().filter(|blob| blob.len() != 40).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_fetched() {
    let bench = Bench::new();
    for (free_bytes, fits) in
        [(Some(LARGE_BYTES as u64), false), (Some(LARGE_BYTES as u64 + (65 << 20)), true)]
    {
        let request = PullRequest { free_bytes, ..PullRequest::new(name("acme/tiny-GGUF:Q4_K_M"), None) };
        bench.hub.take_sent();
        match bench.client().pull(&request, |_| {}) {
            Ok(_) => assert!(fits),
            Err(error) => {
                assert!(!fits && matches!(error, Error::NoSpace { .. }), "{error}");
                assert_eq!(bench.hub.take_sent(), 0);
            }
        }
    }
}

#[test]
fn a_model_is_shown_before_it_is_fetched() {
    for (what, faults) in [
        ("no faults", Faults::default()),
        ("no ranges", Faults { no_ranges: true, ..Faults::default() }),
        ("cuts", Faults { cuts: 2, cut_after: 1000, ..Faults::default() }),
        ("a server that starts", Faults { answers: [(503, None), (500, None)].into(), ..Faults::default() }),
    ] {
        let bench = Bench::new();
        bench.hub.set_faults(faults);
        let request = PullRequest::new(name("acme/tiny-GGUF:Q4_K_M"), None);
        let content = noise(LARGE_BYTES, 1);
        // In two steps; the second asks for what the first has not brought.
        let seen = std::cell::RefCell::new(Vec::new());
        let judge = |files: &[Beginning]| {
            let file = files.iter().position(|file| file.path.ends_with(".gguf")).expect("it has one");
            let known = &files[file].known;
            assert!(content.starts_with(known), "{what}");
            assert_eq!(files[file].bytes, LARGE_BYTES as u64);
            seen.borrow_mut().push(known.len());
            match known.len() {
                0 => Ok(Next::Show { file, bytes: 50_000 }),
                50_000 => Ok(Next::Show { file, bytes: 200_000 }),
                _ => Err("not like this".to_owned()),
            }
        };
        let error = bench.client().pull_examined(&request, &judge, |_| {}).expect_err("refused");
        assert!(matches!(error, Error::Refused { .. }), "{what}: {error}");
        let message = error.to_string();
        assert!(
            message.contains("not like this") && message.contains("--force acme/tiny-GGUF:Q4_K_M"),
            "{message}"
        );
        assert_eq!(*seen.borrow(), [0, 50_000, 200_000], "{what}");
        assert!(!bench.repo_folder().exists(), "{what}: nothing is left");
        // What has begun is not looked at again, and goes on.
        bench.hub.set_faults(Faults { budget: Some(BUDGET), ..Faults::default() });
        bench.pull("acme/tiny-GGUF:Q4_K_M").expect_err("the hub is gone");
        bench.hub.set_faults(Faults::default());
        let pulled = bench.client().pull_examined(&request, &|_| panic!("{what}"), |_| {}).expect("pulls");
        assert!(pulled.fetched_bytes < LARGE_BYTES as u64, "{what}");
        assert_content(&pulled, 1, LARGE_BYTES);
    }
}

#[test]
fn offline_only_the_cache_is_used() {
    let mut bench = Bench::new();
    bench.pull("acme/tiny-GGUF:Q4_K_M").expect("pulls");
    bench.settings.access = Access::Offline;
    bench.hub.take_seen();
    bench.pull("acme/tiny-GGUF:Q4_K_M").expect("is there");
    bench.pull("acme/tiny-GGUF").expect("one quantization is there");
    for text in ["acme/tiny-GGUF:Q8_0", "acme/other", "acme/tiny-GGUF@v1"] {
        let error = bench.pull(text).expect_err("is not there");
        assert!(matches!(error, Error::Offline { .. }), "{text}: {error}");
    }
    assert_eq!(bench.hub.take_seen(), []);
}

#[test]
fn two_at_once_fetch_once() {
    let bench = Bench::new();
    bench.hub.set_faults(Faults { pause: Duration::from_millis(1), ..Faults::default() });
    let pull = || bench.pull("acme/tiny-GGUF/tiny-Q4_K_M.gguf").expect("pulls");
    let both = std::thread::scope(|scope| {
        [scope.spawn(pull), scope.spawn(pull)].map(|thread| thread.join().expect("ends"))
    });
    assert_eq!(both.iter().map(|pulled| pulled.fetched_bytes).sum::<u64>(), LARGE_BYTES as u64 + 30);
    for pulled in &both {
        assert_content(pulled, 1, LARGE_BYTES);
    }
}

#[test]
fn patterns_choose_files() {
    let bench = Bench::new();
    let pull = |include: &[&str], exclude: &[&str]| {
        let owned = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let request = PullRequest {
            include: owned(include),
            exclude: owned(exclude),
            ..PullRequest::new(name(REPO), None)
        };
        let pulled = bench.client().pull(&request, |_| {})?;
        Ok::<_, Error>(pulled.cached.files.into_iter().map(|(path, _)| path).collect::<Vec<_>>())
    };
    assert_eq!(pull(&[], &["*.md"]).expect("pulls"), ["tiny-Q4_K_M.gguf"]);
    assert_eq!(pull(&["*.md", "*.txt"], &[]).expect("pulls"), ["README.md", "empty.txt"]);
    assert_eq!(pull(&["*"], &["*.gguf", "e*"]).expect("pulls"), ["README.md"]);
    assert!(matches!(pull(&["*.bin"], &[]), Err(Error::NoFile { .. })));
    assert!(matches!(pull(&["["], &[]), Err(Error::Setting { .. })));
}

#[test]
fn removing_takes_what_nobody_else_needs() {
    let bench = Bench::new();
    bench.pull("acme/tiny-GGUF:Q4_K_M").expect("pulls");
    bench.pull("acme/tiny-GGUF:Q8_0").expect("pulls");
    let cache = bench.client().cache().clone();
    let listed =
        || cache.list().expect("reads").iter().map(|cached| cached.name.to_string()).collect::<Vec<_>>();
    assert_eq!(listed(), ["acme/tiny-GGUF:Q4_K_M", "acme/tiny-GGUF:Q8_0"]);
    // A second commit with one file in common.
    let next = HubRepo::new(&[("tiny-Q4_K_M.gguf", noise(LARGE_BYTES, 1)), ("tiny-Q8_0.gguf", noise(99, 3))]);
    let next_commit = next.commit().to_owned();
    bench.hub.set_repo(REPO, next);
    bench.hub.take_sent();
    bench.pull("acme/tiny-GGUF:Q4_K_M").expect("pulls");
    assert_eq!(bench.hub.take_sent(), 0, "the content was there");
    assert_eq!(listed().len(), 3);
    let old = repo().commit().to_owned();
    let removal = cache.removal(&name(&format!("acme/tiny-GGUF@{old}:Q4_K_M"))).expect("is there");
    assert_eq!((removal.links.len(), removal.blobs.len(), removal.bytes), (1, 0, 0), "{removal:?}");
    cache.remove(&removal).expect("removes");
    let removal = cache.removal(&name(&format!("acme/tiny-GGUF@{old}"))).expect("is there");
    assert_eq!((removal.links.len(), removal.blobs.len()), (2, 2), "{removal:?}");
    assert!(removal.bytes >= 2 * LARGE_BYTES as u64);
    cache.remove(&removal).expect("removes");
    assert!(!bench.repo_folder().join("snapshots").join(&old).exists());
    assert_eq!(listed(), ["acme/tiny-GGUF:Q4_K_M"]);
    assert!(bench.repo_folder().join("snapshots").join(next_commit).join("tiny-Q4_K_M.gguf").exists());
    assert!(matches!(cache.removal(&name("acme/tiny-GGUF:Q8_0")), Err(Error::NotCached { .. })));
    cache.remove(&cache.removal(&name(REPO)).expect("is there")).expect("removes");
    assert!(!bench.repo_folder().exists());
    assert!(matches!(cache.removal(&name(REPO)), Err(Error::NotCached { .. })));
}

#[test]
fn removing_never_leaves_the_cache() {
    let bench = Bench::new();
    bench.pull("acme/tiny-GGUF:Q4_K_M").expect("pulls");
    let outside = bench.folder.path().join("precious");
    fs::write(&outside, "mine").expect("writes");
    let snapshot = bench.repo_folder().join("snapshots").join(repo().commit());
    link(&outside, &snapshot.join("linked.gguf"));
    link(bench.folder.path(), &snapshot.join("up"));
    let cache = bench.client().cache().clone();
    cache.remove(&cache.removal(&name(REPO)).expect("is there")).expect("removes");
    assert_eq!(fs::read_to_string(&outside).expect("is still there"), "mine");
    assert!(!bench.repo_folder().exists());
    // A repository's folder that is itself a link is none.
    let elsewhere = bench.folder.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("snapshots/x")).expect("makes");
    link(&elsewhere, &bench.repo_folder());
    assert!(matches!(cache.removal(&name(REPO)), Err(Error::NotCached { .. })));
}

fn link(target: &Path, link: &Path) {
    std::os::unix::fs::symlink(target, link).expect("links");
}

#[test]
fn files_of_other_tools_are_found() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("hub/models--acme--folder");
    let commit = "0123456789012345678901234567890123456789";
    let snapshot = folder.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).expect("makes");
    fs::create_dir_all(folder.join("refs")).expect("makes");
    fs::write(folder.join("refs/main"), format!("{commit}\n")).expect("writes");
    for file in ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors"] {
        fs::write(snapshot.join(file), "{}").expect("writes");
    }
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    fs::write(snapshot.join("model.safetensors.index.json"), index).expect("writes");
    let cache = bench.client().cache().clone();
    let find = || cache.find(&name("acme/folder"), None).expect("reads");
    assert!(find().is_none(), "a shard is missing");
    fs::write(snapshot.join("model-00002-of-00002.safetensors"), "x").expect("writes");
    assert_eq!(find().expect("is there").path, snapshot);
    assert_eq!(cache.list().expect("reads")[0].name.to_string(), "acme/folder");
    // What a name in the cache's folder says is not trusted.
    fs::write(folder.join("refs/main"), "../../../../etc").expect("writes");
    assert!(find().is_none());
    for odd in ["models--..--x", "models--a", "datasets--a--b", "blobs"] {
        fs::create_dir_all(bench.folder.path().join("hub").join(odd).join("snapshots/x")).expect("makes");
    }
    assert_eq!(cache.list().expect("reads").len(), 1);
    assert!(matches!(ModelName::parse(Path::new("acme/folder")), Ok(ModelName::Hub(_))));
}
