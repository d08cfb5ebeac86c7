//! User commands, one file per verb.
