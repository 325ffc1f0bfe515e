//! The `gpushare` command.

fn main() -> std::process::ExitCode {
    gpushare_core::cli::main()
}
