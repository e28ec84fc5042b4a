//! The `stepd` binary: arguments in, exit code out.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    stepd::cli::main()
}
