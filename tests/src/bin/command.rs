//! The `gpushare` command, for tests of this crate that need it beside other programs.

fn main() -> std::process::ExitCode {
    gpushare_core::cli::main()
}
