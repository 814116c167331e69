//! Strings that live in a frame.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// A UTF-8 string that shares the memory of the frame it came in. Clones are cheap.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireStr(Bytes);

impl WireStr {
    /// A string of static memory.
    pub const fn from_static(s: &'static str) -> WireStr {
        WireStr(Bytes::from_static(s.as_bytes()))
    }

    /// Takes bytes when they are UTF-8.
    pub fn from_utf8(bytes: Bytes) -> Result<WireStr, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(WireStr(bytes))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // SAFETY: every constructor takes a `str` or has checked the bytes, and `Bytes` never change.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }

    /// The memory it shares.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl Deref for WireStr {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for WireStr {
    fn from(s: &str) -> WireStr {
        WireStr(Bytes::copy_from_slice(s.as_bytes()))
    }
}

impl From<String> for WireStr {
    fn from(s: String) -> WireStr {
        WireStr(Bytes::from(s.into_bytes()))
    }
}

impl From<WireStr> for kacrab_protocol::KafkaString {
    fn from(s: WireStr) -> kacrab_protocol::KafkaString {
        kacrab_protocol::KafkaString::new(s.0).expect("a WireStr is UTF-8")
    }
}

impl AsRef<str> for WireStr {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl std::borrow::Borrow<str> for WireStr {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for WireStr {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for WireStr {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Debug for WireStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for WireStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
