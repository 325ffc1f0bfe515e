//! The `gpushare` command, run as people run it.

fn main() {}
