//! The sealed segments as others see them who read files of their own.

use std::rc::Rc;

use super::Log;
use crate::log::segment::SealedSegment;
use crate::scrub::SealedFile;

impl Log {
    /// The sealed segments as they are now, oldest first. None when the log has failed or is closed.
    pub fn sealed_files(&self) -> Vec<SealedFile> {
        if !self.has_files() {
            return Vec::new();
        }
        let dir = self.0.dir.borrow().clone();
        let file = |sealed: &Rc<SealedSegment>| SealedFile {
            dir: dir.clone(),
            base_offset: sealed.base_offset,
            end_offset: sealed.end_offset.get(),
            bytes: sealed.size,
        };
        self.0.state.borrow().sealed.values().map(file).collect()
    }

    /// The segment is sealed as it was, in the same place, and stays: what is found in its file is
    /// found in the log. False from before the first of its files is touched.
    pub fn is_sealed(&self, file: &SealedFile) -> bool {
        let is_same = |sealed: &&Rc<SealedSegment>| {
            !sealed.retired.get()
                && sealed.size == file.bytes
                && sealed.end_offset.get() == file.end_offset
        };
        let state = self.0.state.borrow();
        let found = state.sealed.get(&file.base_offset).filter(is_same);
        found.is_some() && self.has_files() && *self.0.dir.borrow() == file.dir
    }

    fn has_files(&self) -> bool {
        let state = self.0.state.borrow();
        !state.closed && state.failed.is_none()
    }
}
