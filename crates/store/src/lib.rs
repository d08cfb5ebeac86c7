//! Revisioned, watchable objects: durable and ephemeral; compare-and-swap, watch-from, compaction.
