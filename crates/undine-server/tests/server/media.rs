//! Images that are fetched, from a server that does everything a server should not.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Response, get, post};
use crate::support::{Server, Setup, oracle_vl};
use serde_json::{Value, json};
use undine_server::{Domains, MediaConfig, MediaFolder, ServerConfig};

const PATH: &str = "/v1/chat/completions";
/// Of the server under test.
const FETCH_TIMEOUT: Duration = Duration::from_millis(1500);
/// Longest time a refusal may take.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// More than any image may have.
const TOO_MANY: usize = 33 << 20;

/// What the fetching server may be told to do, by path.
struct Web {
    address: SocketAddr,
    /// Requests that have arrived.
    asked: Arc<AtomicUsize>,
}

impl Web {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || drop(answer(stream.unwrap(), address.port())));
            }
        });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn answer(mut stream: TcpStream, port: u16) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    for name in ["authorization", "cookie", "referer"] {
        assert!(!head.iter().any(|line| line.to_ascii_lowercase().starts_with(name)), "{head:?}");
    }
    let path = first.split(' ').nth(1).unwrap();
    let image = std::fs::read(oracle_vl("48x40.png")).unwrap();
    let mut ok = |headers: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n{headers}\r\n")?;
        stream.write_all(body)
    };
    let typed = |length: usize| format!("content-type: image/png\r\ncontent-length: {length}\r\n");
    match path {
        "/ok.png" => ok(&typed(image.len()), &image),
        "/untyped" => ok("", &image),
        "/octets" => ok("content-type: application/octet-stream\r\n", &image),
        "/page" => ok("content-type: text/html; charset=utf-8\r\n", &image),
        "/no-image" => ok(&typed(4), b"abcd"),
        "/says-much" => ok(&typed(TOO_MANY), &image),
        "/breaks-off" => ok(&typed(image.len()), &image[..100]),
        "/says-little" => ok(&typed(100), &image),
        "/endless" => {
            ok("content-type: image/png\r\n", &image)?;
            let block = vec![0; 1 << 20];
            // Ends when the other side has had enough.
            (0..4096).try_for_each(|_| stream.write_all(&block))
        }
        "/slow" => {
            ok("content-type: image/png\r\n", &image[..10])?;
            for byte in &image[10..] {
                std::thread::sleep(Duration::from_millis(50));
                stream.write_all(&[*byte])?;
            }
            Ok(())
        }
        "/silent" => {
            std::thread::sleep(REFUSED_WITHIN * 2);
            Ok(())
        }
        "/missing" => write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\nsecret"),
        path => {
            let to = match path.strip_prefix("/to/").unwrap() {
                "ok" => "/ok.png".to_owned(),
                "loop" => path.to_owned(),
                "other-host" => format!("http://127.0.0.2:{port}/ok.png"),
                "localhost" => format!("http://localhost:{port}/ok.png"),
                "metadata" => "http://169.254.169.254/latest/meta-data/".to_owned(),
                "user" => format!("http://a:b@127.0.0.1:{port}/ok.png"),
                "file" => "file:///etc/passwd".to_owned(),
                other => panic!("{other}"),
            };
            write!(stream, "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
        }
    }
}

fn seeing(media: MediaConfig) -> Server {
    Setup { config: ServerConfig { media, ..ServerConfig::default() }, ..Setup::seeing() }.start()
}

fn allowing(domains: &[&str]) -> MediaConfig {
    MediaConfig {
        domains: Domains::new(domains.iter().copied()).unwrap(),
        fetch_timeout: FETCH_TIMEOUT,
        ..MediaConfig::default()
    }
}

fn ask_about(server: &Server, urls: &[String]) -> Response {
    let parts: Vec<Value> =
        urls.iter().map(|url| json!({"type": "image_url", "image_url": {"url": url}})).collect();
    let body = json!({"messages": [{"role": "user", "content": parts}], "max_tokens": 1});
    post(server.address, PATH, &body)
}

#[test]
fn images_are_fetched_or_refused_in_time() {
    let web = Web::start();
    let server = seeing(allowing(&["127.0.0.1"]));
    let mut failures = Vec::new();
    for (path, expected) in [
        ("/ok.png", None),
        ("/untyped", None),
        ("/octets", None),
        ("/to/ok", None),
        ("/page", Some(("type", "its server says it is \"text/html\""))),
        ("/no-image", Some(("image", "no PNG"))),
        ("/says-much", Some(("size", "larger than"))),
        ("/breaks-off", Some(("connection", "broke off"))),
        ("/says-little", Some(("image", "cannot be decoded"))),
        ("/endless", Some(("size", "larger than"))),
        ("/slow", Some(("timeout", "within 1.5s"))),
        ("/silent", Some(("timeout", "within 1.5s"))),
        ("/missing", Some(("status", "the status 404"))),
        ("/to/loop", Some(("redirect", "more than 5 times"))),
        ("/to/other-host", Some(("refused", "the server allows: 127.0.0.1"))),
        ("/to/localhost", Some(("refused", "the server allows: 127.0.0.1"))),
        ("/to/metadata", Some(("refused", "the server allows: 127.0.0.1"))),
        ("/to/user", Some(("refused", "user name"))),
        ("/to/file", Some(("url", "scheme \"file\""))),
    ] {
        let start = Instant::now();
        let response = ask_about(&server, &[web.url(path)]);
        assert!(start.elapsed() < REFUSED_WITHIN, "{path}: {:?}", start.elapsed());
        let Some((reason, message)) = expected else {
            assert_eq!(response.status, 200, "{path}: {}", response.body);
            continue;
        };
        failures.push(reason);
        assert_eq!(response.status, 400, "{path}: {}", response.body);
        let error = &response.json()["error"];
        assert_eq!(error["param"], "messages[0].content[0].image_url", "{path}");
        let found = error["message"].as_str().unwrap();
        assert!(found.contains(message) && !found.contains("secret"), "{path}: {found}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(ask_about(&server, &[format!("http://{closed}/")]).body.contains("connection failed"));
    failures.push("connection");
    let metrics = get(server.address, "/metrics").body;
    for reason in ["type", "image", "size", "connection", "timeout", "status", "redirect", "refused", "url"] {
        let count = failures.iter().filter(|&&other| other == reason).count();
        assert!(
            metrics.contains(&format!("reason=\"{reason}\"}} {count}\n")),
            "{reason}: {count}\n{metrics}"
        );
    }
}

#[test]
fn without_permission_nothing_private_is_asked() {
    let web = Web::start();
    let server = seeing(MediaConfig { fetch_timeout: FETCH_TIMEOUT, ..MediaConfig::default() });
    let port = web.address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f000001",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ] {
        let response = ask_about(&server, &[format!("http://{host}:{port}/ok.png")]);
        assert_eq!(response.status, 400, "{host}: {}", response.body);
        assert!(response.body.contains("no address on the public Internet"), "{host}: {}", response.body);
    }
    assert_eq!(web.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_proxy_of_the_environment_is_not_used() {
    // Read when the client is made, so nothing else in this process may depend on it.
    if std::env::var_os("HTTP_PROXY").is_none() {
        let program = std::env::current_exe().unwrap();
        let mut again = std::process::Command::new(program);
        again.args(["--exact", "media::a_proxy_of_the_environment_is_not_used"]);
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            again.env(name, "http://127.0.0.1:9");
        }
        let done = again.output().unwrap();
        assert!(
            done.status.success() && String::from_utf8_lossy(&done.stdout).contains("1 passed"),
            "{done:?}"
        );
        return;
    }
    let web = Web::start();
    let server = seeing(allowing(&["127.0.0.1"]));
    assert_eq!(ask_about(&server, &[web.url("/ok.png")]).status, 200);
}

#[test]
fn many_images_are_fetched_at_once_and_the_first_failure_counts() {
    let web = Web::start();
    let server = seeing(allowing(&["127.0.0.1"]));
    let response = ask_about(&server, &vec![web.url("/ok.png"); 12]);
    assert_eq!(response.status, 200, "{}", response.body);
    let start = Instant::now();
    let urls: Vec<String> =
        ["/slow", "/slow", "/slow", "/missing"].iter().map(|path| web.url(path)).collect();
    let response = ask_about(&server, &urls);
    assert!(start.elapsed() < FETCH_TIMEOUT, "nobody waits for the slow ones");
    assert_eq!(response.json()["error"]["param"], "messages[0].content[3].image_url");
}

#[test]
fn files_are_read_from_the_folder_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(oracle_vl("48x40.png"), folder.path().join("a.png")).unwrap();
    let media =
        MediaConfig { folder: Some(MediaFolder::open(folder.path()).unwrap()), ..MediaConfig::default() };
    let server = seeing(media);
    let root = folder.path().canonicalize().unwrap();
    for (url, status) in [
        (format!("file://{}/a.png", root.display()), 200),
        (format!("file://{}/b.png", root.display()), 400),
        (format!("file://{}", oracle_vl("48x40.png")), 400),
        ("file:///etc/passwd".to_owned(), 400),
    ] {
        let response = ask_about(&server, std::slice::from_ref(&url));
        assert_eq!(response.status, status, "{url}: {}", response.body);
        assert!(
            status == 200 || response.body.contains("there is no such image"),
            "{url}: {}",
            response.body
        );
    }
}
