//! The Containerfile and the compose file: judged by others' tools, and done here, step by step, without a container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cli::{Done, stepd_at};
use crate::support::{Db, Files, SOON, Server, Spec};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `.ci/containers` has unpacked.
fn cached(program: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).unwrap_or_default();
    cache.join("stepd/containers").join(program)
}

/// The first of these commands that can be run at all.
fn there<'a>(commands: &[Vec<&'a str>]) -> Option<Vec<&'a str>> {
    let works = |c: &&Vec<&str>| {
        let mut asked = Command::new(c[0]);
        asked
            .args(&c[1..])
            .arg(if c.len() > 1 { "version" } else { "--version" })
            .output()
            .is_ok_and(|o| o.status.success())
    };
    commands.iter().find(works).cloned()
}

#[test]
fn the_containerfile_and_the_compose_file_are_valid() {
    let (hadolint, compose) = (cached("hadolint/bin/hadolint"), cached("docker-compose"));
    match there(&[vec!["hadolint"], vec![hadolint.to_str().unwrap()]]) {
        Some(linter) => {
            let done = Command::new(linter[0]).arg(root("Containerfile")).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        }
        None => {
            eprintln!("SKIPPED: there is no hadolint here, so nobody has judged the Containerfile (.ci/containers)")
        }
    }
    match there(&[vec!["docker", "compose"], vec!["docker-compose"], vec![compose.to_str().unwrap()]]) {
        Some(of) => {
            let mut command = Command::new(of[0]);
            let done =
                command.args(&of[1..]).arg("-f").arg(root("compose.yaml")).args(["config", "-q"]).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        None => {
            eprintln!("SKIPPED: there is no docker compose here, so nobody has judged compose.yaml (.ci/containers)")
        }
    }
}

/// The Containerfile's instructions, lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root("Containerfile")).unwrap().replace("\\\n", " ");
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    lines.map(|l| l.split_once(' ').unwrap()).map(|(word, rest)| (word.to_owned(), rest.trim().to_owned())).collect()
}

#[test]
fn the_image_is_no_root_s_asks_how_it_is_where_it_listens_and_gets_all_that_the_build_needs() {
    let all = instructions();
    let last = |word: &str| all.iter().rfind(|(w, _)| w == word).map(|(_, rest)| rest.as_str()).unwrap_or_default();
    assert_eq!(all.iter().filter(|(w, _)| w == "FROM").count(), 2, "what builds it is not in it");
    assert!(last("USER").split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{}", last("USER"));
    assert_eq!((last("ENTRYPOINT"), last("CMD")), (r#"["/usr/bin/tini", "--", "/usr/bin/stepd"]"#, r#"["serve"]"#));
    let mut config = Command::new(env!("CARGO_BIN_EXE_stepd"));
    let shown = config.args(["config", "-o", "json"]).env_clear().current_dir("/").output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let listen = shown.as_array().unwrap().iter().find(|s| s["key"] == "http_listen").unwrap();
    let address = format!("http://{}/healthz", listen["value"].as_str().unwrap());
    assert!(last("HEALTHCHECK").contains(&address), "{address}: {}", last("HEALTHCHECK"));
    let toml = std::fs::read_to_string(root("Cargo.toml")).unwrap();
    let oldest = toml.split("rust-version = \"1.").nth(1).unwrap().split('"').next().unwrap().parse::<u32>().unwrap();
    let used = all.iter().find_map(|(_, rest)| rest.strip_prefix("RUST=1.")).unwrap().parse::<u32>().unwrap();
    assert!(used >= oldest, "Rust 1.{used} builds it, and it needs 1.{oldest}");
    // Whatever the sources include is let through.
    let let_through = std::fs::read_to_string(root(".containerignore")).unwrap();
    assert_eq!(let_through, std::fs::read_to_string(root(".dockerignore")).unwrap());
    let needed = included(&root("src"));
    assert!(needed.contains("migrations") && needed.contains("docs"), "{needed:?}");
    for folder in
        needed.iter().map(String::as_str).chain(["src", ".sqlx", "Cargo.toml", "Cargo.lock", "benches", "tests"])
    {
        assert!(let_through.lines().any(|l| l == format!("!{folder}")), "{folder} does not get into the build");
    }
}

/// The folders beside `src` out of which the sources of the daemon include something.
fn included(folder: &Path) -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(included(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("include_").skip(1).filter(|p| p.starts_with("str!(") || p.starts_with("bytes!(")) {
                let named = part.split('"').nth(1).unwrap();
                let ups = named.matches("../").count();
                let depth = path.strip_prefix(root("src")).unwrap().components().count();
                if ups >= depth {
                    found.insert(named.rsplit("../").next().unwrap().split('/').next().unwrap().to_owned());
                }
            }
        }
    }
    found
}

/// A service of the compose file, with the defaults of its variables.
fn service(name: &str) -> (Vec<String>, BTreeMap<String, String>) {
    let text = std::fs::read_to_string(root("compose.yaml")).unwrap();
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    let service = &file["services"][name];
    let plain = |text: &str| match text.strip_prefix("${").and_then(|t| t.strip_suffix('}')) {
        Some(variable) => variable.split_once(":-").expect("each variable has a default").1.to_owned(),
        None => text.to_owned(),
    };
    let words = service["command"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect();
    let environment = service["environment"].as_object().unwrap();
    (words, environment.iter().map(|(k, v)| (k.clone(), plain(v.as_str().unwrap()))).collect())
}

#[tokio::test]
async fn what_the_compose_file_starts_works_one_after_the_other_and_the_daemon_may_change_no_object() {
    let server = Server::own().await;
    if !server.pg.binaries().join("psql").is_file() {
        eprintln!("SKIPPED: there is no psql beside this Postgres, which makes the login of the compose file");
        return;
    }
    // What the image of Postgres does with its variables, and then with the script that is mounted into it.
    let (_, postgres) = service("postgres");
    let admin = server.at("postgres");
    admin.exec(format!("CREATE ROLE {} LOGIN SUPERUSER", postgres["POSTGRES_USER"])).await;
    admin.exec(format!("CREATE DATABASE {}", postgres["POSTGRES_DB"])).await;
    let path = format!("{}:{}", server.pg.binaries().display(), std::env::var("PATH").unwrap());
    let mut login = Command::new("bash");
    login.arg(root("config/compose/login.sh")).envs(&postgres).env("PATH", path).env("PGHOST", server.pg.folder());
    let done = login.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let folder = server.pg.folder().display().to_string();
    let here = |mut environment: BTreeMap<String, String>| {
        assert_eq!(environment.insert("DATABASE_HOST".into(), folder.clone()).as_deref(), Some("postgres"));
        environment
    };
    let (command, environment) = service("migrate");
    let mut migrate = Command::new(env!("CARGO_BIN_EXE_stepd"));
    let done = migrate.args(command).envs(here(environment)).env_remove("DATABASE_URL").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let (command, environment) = service("stepd");
    assert_eq!(command, ["serve"]);
    let db = server.at(&postgres["POSTGRES_DB"]);
    let files = Files::new(["name: hello\nsteps: [{id: a, run: 'echo hello'}]\n"]);
    let spec = Spec::new(&Db { url: String::new(), ..db.clone() }, &files);
    let mut worker = here(environment).iter().fold(spec, |spec, (key, value)| spec.env(key, value)).ready().await;
    let run = db.enqueue("hello", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    let url = format!("postgres://stepd_worker@{}/{}", folder.replace('/', "%2F"), db.name);
    let Done { out, .. } = stepd_at(Some(&url), &["doctor", "-o", "json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    let role = found.as_array().unwrap().iter().find(|f| f["check"] == "role").unwrap();
    assert_eq!(role["level"], "ok", "{role}");
    assert_eq!(worker.drain(SOON).await, Some(0));
}
