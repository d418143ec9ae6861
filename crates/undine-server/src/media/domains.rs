//! The hosts that images may be fetched from (`--allowed-media-domains`).

use std::fmt;

use reqwest::Url;

/// Most hosts in the list.
const DOMAINS_MAX: usize = 1024;

/// Names of hosts, exactly. None are all hosts with a public address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Domains(Vec<String>);

impl Domains {
    /// # Errors
    /// A sentence about what is no name of a host, or too long a list.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let names: Result<Vec<String>, String> = names.into_iter().map(normal).collect();
        match names? {
            names if names.len() > DOMAINS_MAX => {
                Err(format!("expected at most {DOMAINS_MAX} hosts, found {}", names.len()))
            }
            names => Ok(Self(names)),
        }
    }

    /// Whether there is no list.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `host` is as a URL has it.
    pub(crate) fn contain(&self, host: &str) -> bool {
        self.0.iter().any(|name| name == host)
    }
}

impl fmt::Display for Domains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// As a URL has it: lower case, addresses in their usual form.
fn normal(name: &str) -> Result<String, String> {
    let expected = || {
        format!(
            "expected the name of a host without scheme, port or path, such as example.com, found {name:?}"
        )
    };
    let is_ipv6 = name.starts_with('[') && name.ends_with(']');
    if name.contains(['/', '@', '?', '#', '\\', '*']) || name.contains(':') && !is_ipv6 {
        return Err(expected());
    }
    let url = Url::parse(&format!("http://{name}/")).map_err(|_| expected())?;
    url.host_str().map(str::to_owned).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hosts() {
        let good = ["Example.COM", "127.0.0.1", "[::1]", "localhost", "bücher.example"];
        let domains = Domains::new(good).unwrap();
        assert_eq!(domains.to_string(), "example.com, 127.0.0.1, [::1], localhost, xn--bcher-kva.example");
        assert!(domains.contain("localhost") && !domains.contain("host"));
        for bad in [
            "",
            "http://a.example",
            "a.example:80",
            "a.example/x",
            "*.example",
            "::1",
            "[::1]:80",
            "a b",
            "u@a",
        ] {
            assert!(Domains::new([bad]).is_err(), "{bad}");
        }
        assert!(Domains::new([]).unwrap().is_empty());
    }
}
