//! One running instance: the container launcher and its keeper process.
