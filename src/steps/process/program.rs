//! What a program is given.
//!
//! | parameter | of | meaning |
//! |---|---|---|
//! | `script` | `run` | the script, at most 128 KiB (a limit of Linux for one argument) |
//! | `shell` | `run` | `bash` (`bash --noprofile --norc -eo pipefail -c`), `sh` (`sh -e -c`), or a list: a command to which the script is added as its last argument. Absent: bash where the worker has it, else sh |
//! | `argv` | `exec` | the program and its arguments: never parsed again |
//! | `data` | `exec` | which of them begin with data: those must not be options |
//! | `env` | both | an object; strings as they are, all else as JSON; null leaves a variable out |
//! | `stdin` | both | a string as it is, any other value as JSON; absent: empty |
//! | `cwd` | both | an absolute path; absent: an empty folder of the attempt's own |
//! | `limits` | both | an object of [`Resource`]s and numbers; what is absent is as the configuration says |
//!
//! The environment is empty but for the usual variables of the daemon (`PATH`, `HOME`, `LANG`, `LC_*`,
//! `TZ`, `USER`, …), those that the configuration names, `env`, and what names the attempt:
//! `STEPD_RUN_ID`, `STEPD_STEP_KEY`, `STEPD_IDEMPOTENCY_KEY`, `STEPD_EPOCH`, `STEPD_ATTEMPT`,
//! `TRACEPARENT`. An author's `env` cannot change the `STEPD_` ones.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value};

use crate::model::Failure;
use crate::rules::limits::{Limits, Resource};
use crate::steps::calls::Calling;
use crate::steps::params::{self, Params};
use crate::steps::step::StepCx;

/// Variables of the daemon that programs get; a name that ends in `*` means all that begin so.
const PASSED: [&str; 10] = ["PATH", "HOME", "LANG", "LANGUAGE", "LC_*", "TZ", "USER", "LOGNAME", "SHELL", "TMPDIR"];
/// For a daemon without `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static HAS_BASH: LazyLock<bool> = LazyLock::new(|| {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path).any(|folder| folder.join("bash").is_file())
});

/// A program to run, as the parameters say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Program {
    pub argv: Vec<String>,
    /// `None` leaves the variable out.
    pub env: Vec<(String, Option<String>)>,
    pub stdin: Option<Vec<u8>>,
    pub cwd: Option<PathBuf>,
    pub limits: Limits,
}

impl Program {
    /// From the parameters of `run`.
    pub(super) fn script(cx: &StepCx, params: Value) -> Result<Self, Failure> {
        let mut params = Params::new("run", params)?;
        let script = params.required("script")?;
        let default = if *HAS_BASH { "bash" } else { "sh" };
        let words = match params.take("shell") {
            None => shell(default),
            Some(Value::String(name)) => shell(&name),
            Some(Value::Array(words)) if !words.is_empty() => Some(words.into_iter().map(params::text).collect()),
            Some(_) => None,
        };
        let mut argv: Vec<String> = words.ok_or_else(|| {
            params.wrong("shell", "must be `bash`, `sh`, or a list: the command that takes the script")
        })?;
        argv.push(script);
        if argv[0] == "bash" || argv[0] == "sh" {
            // `sh -c SCRIPT NAME`: the name stands before the line number in the shell's own messages.
            argv.push(cx.key.to_string());
        }
        Self::with(params, argv, "script")
    }

    /// From the parameters of `exec`.
    pub(super) fn argv(params: Value) -> Result<Self, Failure> {
        let mut params = Params::new("exec", params)?;
        let argv: Vec<String> = match params.take("argv") {
            Some(Value::Array(words)) if !words.is_empty() => words.into_iter().map(params::text).collect(),
            _ => return Err(params.wrong("argv", "must be a list: the program and its arguments")),
        };
        let data = params.take("data");
        for place in data.iter().flat_map(|d| d.as_array()).flatten().filter_map(Value::as_u64) {
            if let Some(word) = usize::try_from(place).ok().and_then(|place| argv.get(place)).filter(|w| is_option(w)) {
                return Err(option(&params, place, word));
            }
        }
        Self::with(params, argv, "argv")
    }

    /// The program, for its trace.
    pub(super) fn describe(&self, call: &mut Calling) {
        let name =
            Path::new(&self.argv[0]).file_name().map_or_else(|| self.argv[0].clone(), |n| n.to_string_lossy().into());
        call.named(|| format!("exec {name}"));
        call.set("process.executable.name", name);
        call.input(|| Value::from(self.argv.clone()).to_string());
    }

    fn with(mut params: Params, argv: Vec<String>, name: &str) -> Result<Self, Failure> {
        if argv.iter().any(|word| word.contains('\0')) {
            return Err(params.wrong(name, "must not hold a NUL byte: hand such data over by `stdin`"));
        }
        let stdin = params.take("stdin").map(|value| params::text(value).into_bytes());
        let cwd = params.string("cwd")?.map(PathBuf::from);
        if cwd.as_deref().is_some_and(|path| !Path::is_absolute(path)) {
            return Err(params.wrong("cwd", "must be an absolute path"));
        }
        let env = environment(params.object("env")?, &params)?;
        let limits = limits(params.object("limits")?, &params)?;
        Ok(Self { argv, env, stdin, cwd, limits })
    }
}

/// Would a program take it for an option? A number it would not, and `-` is its input.
fn is_option(word: &str) -> bool {
    word.starts_with('-') && word.len() > 1 && word.parse::<f64>().is_err()
}

fn option(params: &Params, place: u64, word: &str) -> Failure {
    let shown: String = word.chars().take(20).collect();
    let must = format!(
        "holds data that begins with `-` as argument {place} ({shown:?}), which the program would take for an option: write \"--\" before it, or --name=${{{{ … }}}} in one word, or hand it in by `env:` or `stdin:`"
    );
    params.wrong("argv", &must)
}

fn shell(name: &str) -> Option<Vec<String>> {
    let words: &[&str] = match name {
        "bash" => &["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"],
        "sh" => &["sh", "-e", "-c"],
        _ => return None,
    };
    Some(words.iter().map(ToString::to_string).collect())
}

fn environment(given: Map<String, Value>, params: &Params) -> Result<Vec<(String, Option<String>)>, Failure> {
    given
        .into_iter()
        .map(|(name, value)| {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(params.wrong("env", "has a name that is empty or holds `=` or a NUL byte"));
            }
            let value = (!value.is_null()).then(|| params::text(value));
            if value.as_deref().is_some_and(|v| v.contains('\0')) {
                let must = format!("has a NUL byte in `{name}`: hand such data over by `stdin`");
                return Err(params.wrong("env", &must));
            }
            Ok((name, value))
        })
        .collect()
}

fn limits(given: Map<String, Value>, params: &Params) -> Result<Limits, Failure> {
    given.into_iter().try_fold(Limits::default(), |limits, (name, value)| {
        match Resource::named(&name).zip(value.as_u64()) {
            Some((resource, limit)) => Ok(limits.with(resource, limit)),
            None => Err(params.wrong("limits", &format!("has `{name}: {value}`, which is no limit"))),
        }
    })
}

/// What every program gets of the daemon's own environment.
pub(super) fn base_environment(more: &[String]) -> Vec<(OsString, OsString)> {
    let passed = |name: &str| {
        more.iter().any(|m| m == name)
            || PASSED.iter().any(|p| p.strip_suffix('*').map_or(*p == name, |stem| name.starts_with(stem)))
    };
    let mut base: Vec<_> = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passed)).collect();
    if !base.iter().any(|(name, _)| name == "PATH") {
        base.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    base
}

/// What names the attempt.
pub(super) fn identity(cx: &StepCx, trace: Option<Arc<str>>) -> impl Iterator<Item = (&'static str, String)> {
    [
        ("STEPD_RUN_ID", cx.run.to_string()),
        ("STEPD_STEP_KEY", cx.key.to_string()),
        ("STEPD_IDEMPOTENCY_KEY", cx.idempotency_key().to_string()),
        ("STEPD_EPOCH", cx.epoch.to_string()),
        ("STEPD_ATTEMPT", cx.attempt.to_string()),
    ]
    .into_iter()
    .chain(cx.session_id.as_ref().map(|s| ("STEPD_SESSION_ID", s.to_string())))
    .chain(trace.map(|t| ("TRACEPARENT", t.to_string())))
}
