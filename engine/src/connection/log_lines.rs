//! A bound for log lines that strangers cause.

use std::cell::Cell;

/// Lines in one second.
const LINES_PER_S: u32 = 5;

/// Counts lines, second by second.
#[derive(Debug, Default)]
pub struct LogLines {
    second: Cell<u64>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl LogLines {
    /// Whether a line may be written now: then how many were left out since the last one.
    pub fn line(&self, second: u64) -> Option<u64> {
        if self.second.replace(second) != second {
            self.lines.set(0);
        }
        if self.lines.get() >= LINES_PER_S {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.lines.set(self.lines.get() + 1);
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_the_rest_is_counted() {
        let lines = LogLines::default();
        let written = (0..100).filter(|_| lines.line(7) == Some(0)).count();
        assert_eq!(written, LINES_PER_S as usize);
        assert_eq!(lines.line(8), Some(95));
        assert_eq!(lines.line(8), Some(0));
    }
}
