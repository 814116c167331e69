//! Java's `.properties` format, with line numbers.

use super::error::{ConfigError, Place};

/// One key and value of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Key, unescaped.
    pub key: String,
    /// Value, unescaped.
    pub value: String,
    /// Line the key stands on, from 1.
    pub line: u32,
}

/// Reads a file as `java.util.Properties.load` does: comments with `#` and `!`, lines continued
/// by a final backslash, `=`, `:` or white space between key and value, backslash escapes.
///
/// # Errors
/// A `\u` that is not followed by four hexadecimal digits, with file and line.
pub fn parse_properties(file: &str, text: &str) -> Result<Vec<Property>, ConfigError> {
    let mut properties = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1u32..).zip(split_lines(text));
    while let Some((line, first)) = lines.next() {
        let first = first.trim_start_matches(is_blank);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = first.to_owned();
        while ends_in_continuation(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, more)) => logical.push_str(more.trim_start_matches(is_blank)),
                None => break,
            }
        }
        let (key, value) = split_key(&logical);
        let place = Place {
            file: file.to_owned(),
            line,
        };
        properties.push(Property {
            key: unescape(key).map_err(|reason| bad_line(&place, reason))?,
            value: unescape(value).map_err(|reason| bad_line(&place, reason))?,
            line,
        });
    }
    Ok(properties)
}

fn bad_line(place: &Place, reason: String) -> ConfigError {
    ConfigError::new("", "", reason).at(Some(place))
}

/// Lines ended by `\n`, `\r` or `\r\n`.
fn split_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match text.find(['\n', '\r']) {
            None => {
                rest = None;
                Some(text)
            }
            Some(at) => {
                let skip = if text[at..].starts_with("\r\n") { 2 } else { 1 };
                rest = Some(&text[at + skip..]);
                Some(&text[..at])
            }
        }
    })
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn split_key(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let mut end = line.len();
    for (at, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if is_blank(c) || c == '=' || c == ':' {
            end = at;
            break;
        }
    }
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(is_blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(is_blank))
}

fn unescape(text: &str) -> Result<String, String> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    // UTF-16 units: a character outside the basic plane is written as two \u.
    let mut units: Vec<u16> = Vec::new();
    let mut chars = text.chars();
    let flush = |units: &mut Vec<u16>, out: &mut String| {
        out.push_str(&String::from_utf16_lossy(units));
        units.clear();
    };
    while let Some(c) = chars.next() {
        let plain = match (c, c == '\\') {
            (_, false) => c,
            (_, true) => match chars.next() {
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let legal = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                    let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| legal);
                    units.push(unit.ok_or_else(|| {
                        format!("Malformed \\uxxxx encoding: \\u{digits}: four hexadecimal digits are expected")
                    })?);
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some(other) => other,
                None => break,
            },
        };
        flush(&mut units, &mut out);
        out.push(plain);
    }
    flush(&mut units, &mut out);
    Ok(out)
}
