//! Deleted records and retention in a history: by size, by age, now and then all of it.

use corelog_storage::config::LogConfig;
use corelog_storage::log::{DeleteRecordsError, LogError};

use super::session::Session;

/// What a retention is to take.
enum Rule {
    /// Segments whose records are all older than this timestamp.
    OlderThan(i64),
    /// Segments beyond so many bytes.
    Bytes(u64),
}

impl Session {
    /// Records are deleted up to some offset; now and then beside other operations.
    pub async fn delete_records(&self) -> Result<(), String> {
        let marks = self.log.marks();
        let offset = match self.chance(6) {
            0 => marks.high_watermark,
            1 => marks.log_end + 1 + self.chance(3) as i64,
            _ => self.chance(marks.high_watermark as u64 + 1) as i64,
        };
        self.beside(async move |session: &Session| session.delete_up_to(offset).await)
            .await
    }

    async fn delete_up_to(&self, offset: i64) -> Result<(), String> {
        {
            let oracle = &mut self.cell.borrow_mut().oracle;
            oracle.start_tried = oracle.start_tried.max(offset);
        }
        let result = self.log.delete_records(offset).await;
        let marks = self.log.marks();
        let mut shared = self.cell.borrow_mut();
        match result {
            Ok(start) if start >= offset && marks.log_start >= start => {
                shared.tally.deletions += 1;
                shared.oracle.starts_at(start)
            }
            Ok(start) => Err(format!("records deleted up to {offset}: {start}, {marks}")),
            Err(DeleteRecordsError::OffsetOutOfRange { high_watermark })
                if offset > high_watermark =>
            {
                shared.tally.deletions_refused += 1;
                Ok(())
            }
            Err(_) if shared.plan.has_faults => Ok(()),
            Err(DeleteRecordsError::Log(LogError::Closed)) => Ok(()),
            Err(DeleteRecordsError::Log(LogError::NoSpace)) if shared.times_filled > 0 => Ok(()),
            Err(error) => Err(format!("records deleted up to {offset}: {error}")),
        }
    }

    /// Retention under some rule; now and then beside other operations.
    pub async fn retain(&self) -> Result<(), String> {
        let marks = self.log.marks();
        let rule = match self.chance(4) {
            0 => Rule::Bytes(self.chance(self.log.size_bytes() + 1)),
            1 => Rule::OlderThan(i64::MAX),
            _ => Rule::OlderThan(1_000 + self.chance(marks.log_end as u64 * 3 + 40) as i64),
        };
        self.beside(async move |session: &Session| session.retain_by(rule).await)
            .await
    }

    async fn retain_by(&self, rule: Rule) -> Result<(), String> {
        let now_ms = self.rt.wall_clock_ms();
        let config = self.cell.borrow().config.clone();
        self.log.set_config(match rule {
            Rule::Bytes(bytes) => LogConfig {
                retention_bytes: Some(bytes),
                ..config
            },
            Rule::OlderThan(timestamp) => LogConfig {
                retention_ms: Some(u64::try_from(now_ms - timestamp).unwrap_or(0)),
                ..config
            },
        });
        let before = self.log.marks().log_start;
        {
            // Nothing past the log's end as it is now; appends may come meanwhile and be over too.
            let oracle = &mut self.cell.borrow_mut().oracle;
            oracle.start_tried = i64::MAX;
        }
        let result = self.log.retain().await;
        let marks = self.log.marks();
        let mut shared = self.cell.borrow_mut();
        shared.oracle.start_tried = marks.log_end;
        self.log.set_config(shared.config.clone());
        match result {
            Ok(_) => {}
            Err(_) if shared.plan.has_faults => return Ok(()),
            Err(LogError::Closed) => return Ok(()),
            Err(LogError::NoSpace) if shared.times_filled > 0 => return Ok(()),
            Err(error) => return Err(format!("retention: {error}")),
        }
        if marks.log_start > marks.high_watermark {
            return Err(format!("retention past the high watermark: {marks}"));
        }
        match rule {
            Rule::Bytes(bytes) if marks.log_start > before && self.log.size_bytes() < bytes => Err(
                format!("retention left {} of {bytes} bytes", self.log.size_bytes()),
            ),
            Rule::OlderThan(timestamp) => {
                // It was judged at some moment between.
                let passed_ms = self.rt.wall_clock_ms() - now_ms;
                let timestamp = timestamp.saturating_add(passed_ms);
                let young = shared.oracle.batches.iter().find(|b| {
                    b.base >= before
                        && b.base < marks.log_start
                        && b.timestamps.iter().any(|&at| at > timestamp)
                });
                match young {
                    Some(b) => Err(format!(
                        "retention of {timestamp} took the batch at {}",
                        b.base
                    )),
                    None => Ok(()),
                }
            }
            Rule::Bytes(_) => Ok(()),
        }
    }

    /// Runs an operation to its end, or beside those that follow; one at a time.
    async fn beside<F>(&self, operation: F) -> Result<(), String>
    where
        F: AsyncFnOnce(&Session) -> Result<(), String> + 'static,
    {
        if self.cell.borrow().plan.raises_in_flight > 0 {
            return Ok(());
        }
        if self.chance(2) == 0 {
            return operation(self).await;
        }
        self.cell.borrow_mut().plan.raises_in_flight += 1;
        let session = self.clone();
        let task = async move {
            let result = operation(&session).await;
            let mut shared = session.cell.borrow_mut();
            shared.plan.raises_in_flight -= 1;
            if let Err(violation) = result {
                shared.violation.get_or_insert(violation);
            }
        };
        self.rt.spawn("beside", task).detach();
        Ok(())
    }
}
