//! The exceptions file: one line each, `rule | path | reason`, or `rule | path#item | reason` if the finding
//! names an item. An exception that no finding needs is itself a finding, so the file only shrinks.

use super::{EXCEPTIONS_PATH, Finding};

struct Exception<'a> {
    line: usize,
    rule: &'a str,
    place: &'a str,
}

/// Removes the findings that have an exception, and adds one for every exception that is malformed or not
/// needed.
pub fn apply(text: &str, findings: Vec<Finding>) -> Vec<Finding> {
    let mut left = Vec::new();
    let mut exceptions = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
            [rule, place, reason] if !reason.is_empty() => {
                exceptions.push(Exception { line: number + 1, rule, place });
            }
            _ => left.push(complaint(number + 1, line, "expected `rule | path#item | reason`")),
        }
    }
    let mut needed = vec![false; exceptions.len()];
    for finding in findings {
        let place = place(&finding);
        let covering = exceptions.iter().position(|e| e.rule == finding.rule && e.place == place);
        match covering {
            Some(at) => needed[at] = true,
            None => left.push(finding),
        }
    }
    for (exception, _) in exceptions.iter().zip(needed).filter(|(_, needed)| !needed) {
        let item = format!("{} | {}", exception.rule, exception.place);
        left.push(complaint(exception.line, &item, "no longer needed; remove the line"));
    }
    left.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    left
}

fn place(finding: &Finding) -> String {
    match finding.item.as_str() {
        "" => finding.path.clone(),
        item => format!("{}#{item}", finding.path),
    }
}

fn complaint(line: usize, item: &str, advice: &str) -> Finding {
    Finding {
        path: EXCEPTIONS_PATH.to_owned(),
        line,
        rule: "exception",
        item: item.to_owned(),
        advice: advice.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exceptions file, the items that break a rule, and the rules and lines that are left.
    type Case = (&'static str, &'static [&'static str], &'static [(&'static str, usize)]);

    fn finding(item: &str) -> Finding {
        Finding {
            path: "a.rs".to_owned(),
            line: 3,
            rule: "function-length",
            item: item.to_owned(),
            advice: String::new(),
        }
    }

    #[test]
    fn an_exception_covers_its_finding_only_and_dies_with_it() {
        let one = "# comment\n\nfunction-length | a.rs#run | a table\n";
        let cases: [Case; 7] = [
            ("", &["run"], &[("function-length", 3)]),
            (one, &["run"], &[]),
            (one, &["run", "run"], &[]),
            (one, &["run", "walk"], &[("function-length", 3)]),
            (one, &[], &[("exception", 3)]),
            ("function-length | a.rs | all\n", &["run"], &[("function-length", 3), ("exception", 1)]),
            ("function-length | a.rs#run |\n", &["run"], &[("function-length", 3), ("exception", 1)]),
        ];
        for (text, items, expected) in cases {
            let left = apply(text, items.iter().map(|item| finding(item)).collect());
            let left: Vec<_> = left.iter().map(|finding| (finding.rule, finding.line)).collect();
            assert_eq!(left, expected, "{text:?} {items:?}");
        }
    }
}
