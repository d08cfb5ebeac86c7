//! The uncompressed stream of a layer: decoded by what the bytes are, counted, bounded and hashed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::digest::{Digest, Hasher};
use crate::images::Limits;

/// Below this many bytes the compression ratio says nothing.
const RATIO_FLOOR_BYTES: u64 = 128 << 20;
/// The largest zstd window, 128 MiB: what `zstd --long` makes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Reads an archive of any supported compression.
pub(super) struct LayerStream {
    reader: Box<dyn Read>,
    hasher: Hasher,
    done: u64,
    limit: u64,
    ratio_limit: u64,
    ratio: u64,
    exceeded: Option<String>,
}

/// Decodes gzip (also several members one after another), zstd or nothing, told by the first bytes: media types are
/// often wrong.
pub(crate) fn decode(reader: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    Ok(match reader.fill_buf()? {
        [0x1f, 0x8b, ..] => {
            Box::new(BufReader::with_capacity(64 << 10, flate2::bufread::MultiGzDecoder::new(reader)))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(BufReader::with_capacity(64 << 10, decoder))
        }
        _ => Box::new(reader),
    })
}

impl LayerStream {
    /// Begins to read `blob`; `hasher` computes the diff id.
    pub(super) fn open(blob: File, hasher: Hasher, limits: &Limits) -> io::Result<Self> {
        let compressed = blob.metadata()?.len();
        Ok(Self {
            reader: decode(blob)?,
            hasher,
            done: 0,
            limit: limits.layer_bytes,
            ratio_limit: compressed.saturating_mul(limits.layer_ratio).max(RATIO_FLOOR_BYTES),
            ratio: limits.layer_ratio,
            exceeded: None,
        })
    }

    /// The bound that stopped the stream, if one did.
    pub(super) fn exceeded(&self) -> Option<String> {
        self.exceeded.clone()
    }

    /// The digest of everything that was read.
    pub(super) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl Read for LayerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.done += count as u64;
        if self.done > self.limit {
            self.exceeded = Some(format!("it unpacks to more than {} bytes", self.limit));
        } else if self.done > self.ratio_limit {
            self.exceeded = Some(format!("it unpacks to more than {} times its size", self.ratio));
        }
        if self.exceeded.is_some() {
            return Err(io::Error::other("the layer exceeds a limit"));
        }
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
