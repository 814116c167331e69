//! A scan of the source: banned calls, sizes, words that do not belong.

use super::Findings;
use anyhow::Result;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Calls that only `engine/runtime` may make; the second line of defence behind clippy's `disallowed-methods`, which
/// sees no types and no traits.
const BANNED: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::fs",
    "fs::File",
    "TcpListener::bind",
    "TcpStream::connect",
    "UdpSocket",
    "thread::spawn",
    "thread::sleep",
    "thread::Builder",
    "thread_local!",
    "available_parallelism",
    "rand::",
    "getrandom",
    "RandomState",
    "HashMap::new",
    "HashSet::new",
    "HashMap::default",
    "tokio::",
    "std::process::Command",
];

/// Where the product's rule does not hold: the runtime itself, and programs that run beside the broker.
const FREE: &[&str] = &[
    "engine/runtime/",
    "engine/sim/src/many.rs",
    "bench/",
    "tools/",
];
/// The control plane room is the one named exception for tokio, and listens through it.
const CONTROL_PLANE: &str = "engine/src/control_plane/";
const CONTROL_PLANE_MAY: &[&str] = &["tokio::", "TcpListener::bind"];

/// Scans every tracked file.
pub fn check(root: &Path, files: &[PathBuf], findings: &mut Findings) -> Result<()> {
    for file in files {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else {
            continue;
        };
        let name = file.display().to_string();
        words(&name, &text, findings);
        if !name.ends_with(".rs") {
            continue;
        }
        sizes(&name, &text, findings);
        if is_product(&name) {
            banned(&name, &text, findings);
        }
    }
    Ok(())
}

fn is_product(name: &str) -> bool {
    !FREE.iter().any(|free| name.starts_with(free)) && !is_test_file(name)
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests/")
        || name.ends_with("/tests.rs")
        || name.ends_with("_tests.rs")
        || name.contains("/benches/")
}

fn banned(name: &str, text: &str, findings: &mut Findings) {
    for (number, line) in code_lines(text) {
        for call in BANNED {
            let excused = name.starts_with(CONTROL_PLANE) && CONTROL_PLANE_MAY.contains(call);
            if !excused && holds_call(line, call) {
                findings.error(format!(
                    "{name}:{number}: `{call}` belongs to engine/runtime"
                ));
            }
        }
    }
}

/// The call, not the end of a longer name such as `rt::Instant::nowhere` or `operand::`.
fn holds_call(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + call.len()..].chars().next();
        let name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !name(before) && (call.ends_with(':') || !name(after))
    })
}

/// Numbered lines of code up to the first `#[cfg(test)]` module, without comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end]
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or("")))
}

fn sizes(name: &str, text: &str, findings: &mut Findings) {
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.warning(format!(
            "{name} has {lines} lines, more than {FILE_LINES_MAX}"
        ));
    }
    for (number, length) in long_functions(text) {
        findings.warning(format!(
            "{name}:{number}: a function of {length} lines, more than {FUNCTION_LINES_MAX}"
        ));
    }
}

/// First line and length of every function that is too long, by indentation as rustfmt leaves it.
fn long_functions(text: &str) -> Vec<(usize, usize)> {
    let mut open: Vec<(usize, usize)> = Vec::new(); // (indentation, first line)
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        let words: Vec<&str> = code.split_whitespace().take(6).collect();
        let modifiers = [
            "pub",
            "async",
            "const",
            "unsafe",
            "extern",
            "pub(crate)",
            "pub(super)",
            "\"C\"",
        ];
        let first = words.iter().position(|word| !modifiers.contains(word));
        if first.is_some_and(|first| words[first] == "fn") && !code.ends_with(';') {
            open.push((indentation, at + 1));
        }
        if code == "}"
            && open
                .last()
                .is_some_and(|(column, _)| *column == indentation)
        {
            let (_, begin) = open.pop().unwrap_or_default();
            let length = at + 1 - begin + 1;
            if length > FUNCTION_LINES_MAX {
                found.push((begin, length));
            }
        }
    }
    found
}

/// Words about how and where the text was written, and paths of one machine. Spelled in halves, so that this table
/// does not find itself.
const WORDS: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ho", "me/"),
    ("/ro", "ot/"),
    ("/tmp/", "core_"),
    ("chat", "gpt"),
    ("clau", "de"),
    ("anthro", "pic"),
    ("openai ", "model"),
    ("language ", "model"),
    ("as an ", "ai"),
    ("../sha", "red"),
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X:"),
    ("todo", "!("),
    ("unimple", "mented!("),
];

fn words(name: &str, text: &str, findings: &mut Findings) {
    if name == "Cargo.lock" {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        for (one, two) in WORDS {
            let word = format!("{one}{two}");
            // Capitals mean capitals; the others are found in any case.
            let found = if word.chars().any(char::is_uppercase) {
                line.contains(&word)
            } else {
                lower.contains(&word)
            };
            if found {
                findings.error(format!(
                    "{name}:{}: `{word}` does not belong here",
                    number + 1
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_call_is_found_in_code_and_not_in_comments_tests_or_longer_names() {
        let text = "use std::fs;\n// std::fs is banned\nlet a = operand::new();\nlet b = my_rand::x();\n\
                    #[cfg(test)]\nmod tests { fn f() { std::fs::read(\"a\"); } }\n";
        let mut findings = Findings::default();
        banned("storage/src/x.rs", text, &mut findings);
        assert_eq!(
            findings.errors,
            ["storage/src/x.rs:1: `std::fs` belongs to engine/runtime"]
        );
    }

    #[test]
    fn tokio_is_for_the_control_plane_alone() {
        let mut findings = Findings::default();
        banned(
            "engine/src/control_plane/mod.rs",
            "tokio::spawn(x)",
            &mut findings,
        );
        assert!(findings.errors.is_empty());
        banned("engine/src/shard/mod.rs", "tokio::spawn(x)", &mut findings);
        assert_eq!(findings.errors.len(), 1);
    }

    #[test]
    fn functions_are_measured_from_their_first_line_to_their_brace() {
        let body = "    let x = 1;\n".repeat(FUNCTION_LINES_MAX);
        let long = format!("fn short() {{\n}}\n\npub async fn long() {{\n{body}}}\n");
        assert_eq!(long_functions(&long), [(4, FUNCTION_LINES_MAX + 2)]);
        let short = format!(
            "fn ok() {{\n{}}}\n",
            "    let x = 1;\n".repeat(FUNCTION_LINES_MAX - 2)
        );
        assert!(long_functions(&short).is_empty());
    }

    #[test]
    fn words_that_do_not_belong_are_found() {
        let mut findings = Findings::default();
        words("README.md", &format!("see /wo{}x", "rk/"), &mut findings);
        let note = format!("a {}: later", ["TO", "DO"].concat());
        words("README.md", &note, &mut findings);
        words("README.md", "a workbench, to do, a method", &mut findings);
        assert_eq!(findings.errors.len(), 2, "{:?}", findings.errors);
    }
}
