//! The configuration: a file and an environment.

use std::path::PathBuf;

use stepd::app::config::Sources;
use stepd::app::{site, traces};

use super::{Form, Fuzzed, Target, fields, joined};
use crate::seeds;

pub const TARGET: Target = Target {
    name: "config",
    what: "the configuration: a TOML file and an environment",
    weight: 3,
    forms: &[Form::Lines, Form::Lines],
    words: &[
        "concurrency = 1",
        "[retention]",
        "completed = \"7d\"",
        "[mcp.x]",
        "command = \"true\"",
        "url = \"http://127.0.0.1:1\"",
        "[models.m]",
        "base_url = \"http://127.0.0.1:1\"",
        "price_input = 1e400",
        "[http_tokens.t]",
        "scope = \"admin\"",
        "sha256 = \"\"",
        "[http_hooks.h]",
        "secret = \"long enough\"",
        "when = \"${{ body.a }}\"",
        "[connections]",
        "[secrets]",
        "[env]",
        "[traces.t]",
        "http_listen = \"127.0.0.1:0\"",
        "database_url = \"postgres://a:b@[::1]:5432,c/d?sslmode=require&host=/tmp\"",
        "STEPD_CONCURRENCY=1",
        "STEPD_MCP__X__URL=http://a",
        "PGHOST=a,b",
        "PGPORT=1,2",
        "DATABASE_URL=postgres://",
        "RUST_LOG=a=b",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://a",
        "OTEL_EXPORTER_OTLP_HEADERS=a=b,c=%20",
        "OTEL_TRACES_SAMPLER=traceidratio",
        "OTEL_TRACES_SAMPLER_ARG=0.5",
        "LANGSMITH_API_KEY=x",
        "LANGFUSE_PUBLIC_KEY=x",
        "LANGFUSE_HOST=http://a",
        "\"\"\"",
        "'''",
        "0x",
        "1979-05-27T07:32:00Z",
        "inf",
        "[[a]]",
        "a.b.c = 1",
        "{}",
        "database_password_file = \"/dev/null\"",
    ],
    make: || {
        let folder = tempfile::tempdir().unwrap();
        Box::new(Configurations { file: folder.path().join("stepd.toml"), _folder: folder })
    },
};

const ENVIRONMENT: &str = "DATABASE_URL=postgres://u:p@h:5432/d\nPGHOST=h\nPGPORT=5432\nSTEPD_CONCURRENCY=7\nSTEPD_HTTP_LISTEN=off\nSTEPD_RETENTION__COMPLETED=7d\nSTEPD_QUEUES=a,b\nRUST_LOG=debug\nSTEPD_TRACES__T__URL=http://127.0.0.1:4318\nOTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318\nOTEL_SERVICE_NAME=x";

struct Configurations {
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Fuzzed for Configurations {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut all = seeds::blocks("toml");
        all.extend(seeds::files(&["config/stepd.toml"], &[".toml"]));
        // The template says every key behind a `#`.
        all.extend(all.clone().into_iter().map(|text| {
            let open = |line: &str| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line).to_owned();
            text.lines().map(open).collect::<Vec<_>>().join("\n")
        }));
        all.iter().map(|text| joined(&[text, ENVIRONMENT])).collect()
    }

    fn once(&mut self, input: &[u8]) -> Result<(), String> {
        let [file, environment] = fields(input);
        std::fs::write(&self.file, &*file).unwrap();
        // Other folders have nothing for a fuzzer to read.
        let variables = environment.lines().filter(|l| !l.starts_with("CREDENTIALS_DIRECTORY"));
        let variables: Vec<(String, Result<String, String>)> = variables
            .map(|line| line.split_once('=').unwrap_or((line, "")))
            .map(|(name, value)| match value.strip_prefix('\u{fffd}') {
                Some(rest) => (name.to_owned(), Err(rest.to_owned())),
                None => (name.to_owned(), Ok(value.to_owned())),
            })
            .collect();
        let sources = Sources { file: Some(self.file.clone()), ..Sources::default() };
        match sources.load_from(&variables, &[]) {
            Ok(loaded) => {
                let _ = (loaded.config.database(), site::rules(&loaded.config), traces::options(&loaded.config));
                let shown: usize = loaded.shown().len();
                let _ = (loaded.config.retention(), shown);
                Ok(())
            }
            Err(error) => {
                drop(error.to_string());
                Ok(())
            }
        }
    }
}
