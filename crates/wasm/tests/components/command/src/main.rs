//! A command, not a function: it exports `wasi:cli/run` and answers no HTTP.

fn main() {
    println!("nobody asked");
}
