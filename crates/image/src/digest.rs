//! Content digests: the only identity that content has.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::Error;

/// A sha256 digest, written `sha256:<64 lowercase hexadecimal digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Computes a [`Digest`] piece by piece.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

// === impl Digest ===

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of a file's bytes, read piece by piece. Blocking.
    ///
    /// # Errors
    /// [`Error::File`], naming the file.
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::file("read", path, source);
        let mut file = File::open(path).map_err(failed)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            match buffer.get(..count) {
                Some(bytes) if !bytes.is_empty() => hasher.update(bytes),
                _ => return Ok(hasher.finish()),
            }
        }
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads 64 hexadecimal digits, as [`Digest::hex`] writes them.
    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let digits: Vec<u8> = hex.bytes().map(digit).collect::<Option<_>>()?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(high << 4 | low),
                _ => None,
            })
            .collect::<Option<_>>()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self, Error> {
        let invalid = |reason| Error::Digest { input: input.chars().take(200).collect(), reason };
        match input.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex)
                .ok_or_else(|| invalid("expected 64 lowercase hexadecimal digits after sha256:")),
            Some(_) => Err(invalid("only sha256 digests are supported")),
            None => Err(invalid("expected sha256:<64 hexadecimal digits>")),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === impl Hasher ===

impl Hasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything that was added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn bad_digests_say_what_is_wrong() {
        for (input, expect) in [
            ("e3b0", "expected sha256:<64"),
            ("sha512:00", "only sha256"),
            ("sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855", "lowercase"),
            ("sha256:00", "64 lowercase"),
            ("sha256:../../../../etc/passwd", "64 lowercase"),
        ] {
            let text = input.parse::<Digest>().unwrap_err().to_string();
            assert!(text.contains(expect) && text.contains(input), "{input}: {text}");
        }
    }
}
