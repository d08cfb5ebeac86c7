//! Content digests: the only identity that content has.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::Error;

/// A digest, written `sha256:<64 lowercase hexadecimal digits>` or `sha512:<128 of them>`. What this program makes is
/// sha256; what others have named by sha512 keeps its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The first [`Algorithm::bytes`] count; the others are zero.
    bytes: [u8; 64],
}

/// The registered algorithms of the image specification.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Algorithm {
    Sha256,
    Sha512,
}

/// Computes a [`Digest`] piece by piece; by sha256 unless it is made by [`Digest::hasher`].
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

// === impl Algorithm ===

impl Algorithm {
    const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

// === impl Digest ===

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The name of its algorithm.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm.name()
    }

    /// Computes another digest by the same algorithm, to compare.
    pub fn hasher(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Sha256 => Hasher::default(),
            Algorithm::Sha512 => Hasher(State::Sha512(Box::default())),
        }
    }

    /// The digest of `bytes` by the same algorithm, to compare.
    pub fn same_of(&self, bytes: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of a file's bytes, read piece by piece. Blocking.
    ///
    /// # Errors
    /// [`Error::File`], naming the file.
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        Self::read(path, Hasher::default())
    }

    /// The digest of a file's bytes by the same algorithm, to compare. Blocking.
    ///
    /// # Errors
    /// [`Error::File`], naming the file.
    pub fn same_of_file(&self, path: &Path) -> Result<Self, Error> {
        Self::read(path, self.hasher())
    }

    fn read(path: &Path, mut hasher: Hasher) -> Result<Self, Error> {
        let failed = |source| Error::file("read", path, source);
        let mut file = File::open(path).map_err(failed)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            match buffer.get(..count) {
                Some(bytes) if !bytes.is_empty() => hasher.update(bytes),
                _ => return Ok(hasher.finish()),
            }
        }
    }

    /// The hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.bytes.iter().take(self.algorithm.bytes()).fold(String::with_capacity(128), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Reads hexadecimal digits as [`Digest::hex`] writes them; their number tells the algorithm.
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
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.bytes() == bytes.len())?;
        Some(Self::from_bytes(algorithm, &bytes))
    }

    fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut all = [0; 64];
        all.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        Self { algorithm, bytes: all }
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self, Error> {
        let invalid = |reason| Error::Digest { input: input.chars().take(200).collect(), reason };
        match input.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex)
                .filter(|digest| digest.algorithm == Algorithm::Sha256)
                .ok_or_else(|| invalid("expected 64 lowercase hexadecimal digits after sha256:")),
            Some(("sha512", hex)) => Self::from_hex(hex)
                .filter(|digest| digest.algorithm == Algorithm::Sha512)
                .ok_or_else(|| invalid("expected 128 lowercase hexadecimal digits after sha512:")),
            Some(_) => Err(invalid("only sha256 and sha512 digests are supported")),
            None => Err(invalid("expected sha256:<64 hexadecimal digits>")),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
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
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything that was added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::from_bytes(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => Digest::from_bytes(Algorithm::Sha512, &state.finalize()),
        }
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self(State::Sha256(sha2::Sha256::default()))
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
        let long = format!("sha512:{}", "0f".repeat(64)).parse::<Digest>().unwrap();
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
        assert_eq!(long.same_of(b"abc").hex().get(..8), Some("ddaf35a1"));
    }

    #[test]
    fn bad_digests_say_what_is_wrong() {
        for (input, expect) in [
            ("e3b0", "expected sha256:<64"),
            ("sha512:00", "128 lowercase"),
            ("md5:00", "only sha256 and sha512"),
            ("sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855", "lowercase"),
            ("sha256:00", "64 lowercase"),
            ("sha256:../../../../etc/passwd", "64 lowercase"),
        ] {
            let text = input.parse::<Digest>().unwrap_err().to_string();
            assert!(text.contains(expect) && text.contains(input), "{input}: {text}");
        }
    }
}
