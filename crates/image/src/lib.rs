//! References, registry client and server, content store, unpacking, writing layers.
