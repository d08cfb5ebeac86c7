//! Builds of real projects with this machine's tools, in real sandboxes. They need root, and each tool that it names.

mod faults;
mod languages;
mod support;
