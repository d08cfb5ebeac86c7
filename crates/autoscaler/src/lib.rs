//! The KPA decision (pure) and its shell.
