//! Mutants.

use std::process::ExitCode;

use crate::arguments::Options;

pub async fn all(_named: &[String], _options: &Options) -> ExitCode {
    ExitCode::FAILURE
}
