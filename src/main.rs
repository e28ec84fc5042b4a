//! The `stepd` binary: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    stepd::cli::main()
}
