//! Images: references, registry client and server, content store, unpacking, writing layers.
//!
//! One content store serves everybody: what `skopeo` pushes into the embedded [`registry`], what [`Images::pull`]
//! brings from elsewhere and what [`Images::build`] writes are the same blobs, and nothing is stored twice.
//! Everything that arrives from outside is verified against its digest while it streams, bounded in size, and unpacked
//! with file-descriptor-relative operations that cannot leave the layer's directory.
//!
//! Reading order: [`digest`](Digest) → [`Reference`] → `manifest` → `store` → `unpack` → `view` → `client` →
//! [`Images`] → [`registry`]. Test alone: `cargo test -p dormouse-image`.

mod auth;
mod client;
mod digest;
mod error;
mod flight;
mod images;
mod manifest;
mod progress;
mod reference;
pub mod registry;
mod store;
mod unpack;
mod view;

pub use auth::Auth;
pub use digest::{Digest, Hasher};
pub use error::{Error, Result};
pub use images::assemble::{ImageSpec, Referrer};
pub use images::build::{BuildInput, BuildOptions};
pub use images::component::Component;
pub use images::layer::{Compression, Layer, LayerContent, LayerItem};
pub use images::prepare::{ImageConfig, Prepared};
pub use images::{Config, Images, Limits, Listed};
pub use progress::{Event, Progress, Silent};
pub use reference::Reference;
pub use store::sweep::Swept;
