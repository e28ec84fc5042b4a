use super::*;

/// What a file and an environment come to, without anything of this process' own.
fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("stepd.toml"), file).unwrap();
    std::fs::write(folder.path().join("secret"), "from the file\n").unwrap();
    load_in(folder.path(), environment, flags)
}

fn load_in(
    folder: &Path,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Loaded, ConfigError> {
    let environment: Vec<Variable> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), Ok((*value).to_owned()))).collect();
    let flags = flags.iter().map(|(flag, key, text)| Flag { flag, key, texts: vec![(*text).to_owned()] }).collect();
    Sources { file: Some(folder.join("stepd.toml")), flags, ..Sources::default() }.load_from(&environment, &[])
}

fn wrong(loaded: Result<Loaded, ConfigError>) -> Vec<String> {
    match loaded {
        Err(ConfigError::Wrong(wrong)) => {
            let short =
                |c: &Complaint| c.to_string().rsplit_once("/stepd.toml").map_or(c.to_string(), |(_, c)| c.to_owned());
            wrong.iter().map(short).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn source(loaded: &Loaded, key: &str) -> String {
    let shown = loaded.shown().into_iter().find(|s| s.key == key).unwrap();
    shown.source.rsplit_once("/stepd.toml").map_or(shown.source.clone(), |(_, line)| format!("file{line}"))
}

#[test]
fn a_flag_outweighs_the_environment_and_that_the_file_and_each_value_knows_its_source() {
    let file = "concurrency = 1\ngrace_seconds = 1\nlease_seconds = 30\n\nqueues = ['a', 'b']\n[secrets]\na = 'one'\nb = 'two'\n";
    let environment = [("STEPD_CONCURRENCY", "2"), ("STEPD_GRACE_SECONDS", "2"), ("STEPD_SECRETS__B", "three")];
    let loaded = load(file, &environment, &[("--concurrency", "concurrency", "3")]).unwrap();
    let config = &loaded.config;
    assert_eq!((config.concurrency, config.grace_seconds, config.lease_seconds), (3, 2, 30));
    assert_eq!(config.queues, ["a", "b"]);
    assert_eq!((config.secrets["a"].as_str(), config.secrets["b"].as_str()), ("one", "three"));
    for (key, place) in [
        ("concurrency", "--concurrency"),
        ("grace_seconds", "STEPD_GRACE_SECONDS"),
        ("lease_seconds", "file:3"),
        ("queues", "file:5"),
        ("secrets.a", "file:7"),
        ("secrets.b", "STEPD_SECRETS__B"),
        ("log_level", "default"),
    ] {
        assert_eq!(source(&loaded, key), place, "{key}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place_and_what_to_do() {
    let file = "concurency = 1\nlease_seconds = 1\nqueues = 'a'\nlog_format = 'jsn'\ngrace_seconds = 2.5\n[secrets]\na = 5\nb = { fil = 'x' }\n";
    let environment =
        [("STEPD_GRACE_SECOND", "1"), ("STEPD_CONCURRENCY", "many"), ("PGPORT", "x"), ("STEPD_SECRETS", "x")];
    let wrong = wrong(load(file, &environment, &[("--concurrency", "concurrency", "0")]));
    for (line, expected) in [
        ":1: there is no key `concurency`; did you mean `concurrency`?",
        ":2: `lease_seconds` must be a whole number from 3 to 86400; it is `1`",
        ":3: `queues` must be a list of texts: [\"one\", \"two\"]; it is one text",
        ":4: `log_format` must be one of \"auto\", \"json\", \"pretty\", \"journald\"; it is `jsn`, did you mean `json`?",
        ":5: `grace_seconds` must be a whole number from 0 to 86400; it is a number with a fraction",
        ":7: `secrets.a`: it must be text in quotes, or { file = \"…\" }; it is a whole number",
        ":8: `secrets.b` has no `fil`; did you mean `file`?",
        ":8: `secrets.b`: { file = \"…\" } must name a file",
        "PGPORT: `database_port` must be a port, or a list of ports for as many hosts; it is `x`",
        "STEPD_CONCURRENCY: `concurrency` must be a whole number from 1 to 1000000; it is `many`",
        "STEPD_GRACE_SECOND: there is no key `grace_second`; did you mean STEPD_GRACE_SECONDS?",
        "STEPD_SECRETS: `secrets` is a table; name one of its entries: STEPD_SECRETS__NAME",
        "--concurrency: `concurrency` must be a whole number from 1 to 1000000; it is `0`",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(wrong.get(line).map(String::as_str), Some(expected), "{wrong:#?}");
    }
    assert_eq!(wrong.len(), 13, "{wrong:#?}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    let wrong = wrong(load("concurrency = 1\nqueues = [\n", &[], &[]));
    assert!(wrong[0].starts_with(":2: this is no TOML") || wrong[0].starts_with(":3: this is no TOML"), "{wrong:?}");
}

#[test]
fn variables_that_are_not_stepds_configuration_are_left_alone() {
    let environment = [
        ("STEPD_RUN_ID", "x"),
        ("STEPD_PORT", "tcp://10.0.0.1:80"),
        ("STEPD_SERVICE_HOST", "10.0.0.1"),
        ("STEPD_PORT_80_TCP", "x"),
        ("STEPDAD", "x"),
        ("STEPD_CONCURRENCY", ""),
    ];
    assert_eq!(load("", &environment, &[]).unwrap().config, Config::default());
}

#[test]
fn the_five_parts_or_those_of_libpq_make_a_database_and_a_url_replaces_them() {
    let parts = [
        ("DATABASE_HOST", "db"),
        ("DATABASE_PORT", "6000"),
        ("DATABASE_NAME", "app"),
        ("DATABASE_USER", "me"),
        ("DATABASE_PASSWORD", "geheim"),
    ];
    let database = |loaded: &Loaded| {
        let hosts = loaded.config.database().unwrap();
        format!(
            "{}@{}:{}/{}",
            hosts[0].get_username(),
            hosts[0].get_host(),
            hosts[0].get_port(),
            hosts[0].get_database().unwrap()
        )
    };
    assert_eq!(database(&load("", &parts, &[]).unwrap()), "me@db:6000/app");
    let libpq =
        [("PGHOST", "pg"), ("PGPORT", "1"), ("PGUSER", "you"), ("PGDATABASE", "other"), ("PGSSLMODE", "disable")];
    let loaded = load("database_url = 'postgres://u:p@file:9/file'", &libpq, &[]).unwrap();
    assert_eq!(database(&loaded), "you@pg:1/other", "the environment outweighs the file");
    let all: Vec<_> = libpq.into_iter().chain(parts).collect();
    assert_eq!(database(&load("", &all, &[]).unwrap()), "me@db:6000/app");
    let all: Vec<_> = all.into_iter().chain([("DATABASE_URL", "postgres://u@url:7/url")]).collect();
    let loaded = load("", &all, &[]).unwrap();
    assert_eq!(database(&loaded), "u@url:7/url");
    assert_eq!(source(&loaded, "database_url"), "DATABASE_URL");
    let own = [("STEPD_DATABASE_URL", "postgres://u@own:8/own"), ("DATABASE_URL", "postgres://u@url:7/url")];
    assert_eq!(database(&load("", &own, &[]).unwrap()), "u@own:8/own", "the name of its own is the more exact one");
    let flag = [("--database-url", "database_url", "postgres://u@flag:1/flag")];
    assert_eq!(database(&load("", &own, &flag).unwrap()), "u@flag:1/flag");
}

#[test]
fn a_private_database_is_used_whatever_the_environment_names() {
    let mut config =
        load("", &[("PGHOST", "pg"), ("PGDATABASE", "other"), ("DATABASE_USER", "me")], &[]).unwrap().config;
    config.use_database("postgres://u@own/private");
    let hosts = config.database().unwrap();
    assert_eq!((hosts[0].get_host(), hosts[0].get_username(), hosts[0].get_database()), ("own", "u", Some("private")));
}

#[test]
fn secrets_come_from_files_and_from_what_systemd_hands_over() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = folder.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("stepd.toml", "database_url_file = 'db'\n[secrets]\na = { file = 'beside' }\nb = { file = 'handed' }\n");
    write("beside", "one\n");
    write("credentials/handed", "two");
    write("credentials/db", "postgres://u:p@credential/db\n");
    write("credentials/secrets.c", "three\n");
    write("credentials/connections.crm", "postgres://u:p@crm/db");
    write("credentials/unrelated", "of somebody else");
    let environment = [("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())];
    let loaded = load_in(folder.path(), &environment, &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.database_url.as_deref(), Some("postgres://u:p@credential/db"));
    let secrets: Vec<&str> = config.secrets.values().map(String::as_str).collect();
    assert_eq!(secrets, ["one", "two", "three"]);
    assert_eq!(config.connections["crm"], "postgres://u:p@crm/db");
    assert_eq!(source(&loaded, "secrets.c"), "credential secrets.c");
    write(
        "stepd.toml",
        "database_url_file = 'nowhere'\ndatabase_url = 'postgres://a/b'\n[secrets]\na = { file = 'neither' }\n",
    );
    let wrong = wrong(load_in(folder.path(), &environment, &[])).join("\n");
    for part in ["both `database_url`", "nowhere cannot be read", "`secrets.a`", "neither cannot be read"] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
}

#[test]
fn no_secret_is_shown_not_even_in_a_complaint() {
    let file = "database_url = 'postgres://u:geheim@h/db'\n[secrets]\na = 'geheim'\n[connections]\ncrm = 'postgres://u:geheim@crm/db'\n";
    let loaded = load(file, &[("PGPASSWORD", "geheim")], &[]).unwrap();
    let shown = serde_json::to_string(&loaded.shown()).unwrap();
    assert!(!shown.contains("geheim") && shown.contains("postgres://u:***@crm/db"), "{shown}");
    assert_eq!(loaded.config.passwords(), ["geheim"; 3]);
    let wrong = wrong(load("database_url = 'geheim'", &[("STEPD_DATABASE_URL", "mysql://geheim")], &[]));
    assert!(wrong.len() == 2 && !wrong.concat().contains("geheim"), "{wrong:?}");
}

#[test]
fn relative_paths_in_the_file_are_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("stepd.toml"), "workflows = ['flows', '/abs']").unwrap();
    let config = load_in(folder.path(), &[], &[]).unwrap().config;
    assert_eq!(config.workflows, [folder.path().join("flows"), PathBuf::from("/abs")]);
    let config = load_in(folder.path(), &[("STEPD_WORKFLOWS", "here, there")], &[]).unwrap().config;
    assert_eq!(config.workflows, [PathBuf::from("here"), PathBuf::from("there")]);
}

#[test]
fn the_template_is_the_default_configuration_and_names_every_key_once_with_its_meaning() {
    let lines: Vec<&str> = TEMPLATE.lines().collect();
    let names = |line: &str| {
        let line = line.trim_start_matches("# ");
        let name =
            line.strip_prefix('[').and_then(|l| l.strip_suffix(']')).or_else(|| Some(line.split_once(" = ")?.0))?;
        keys::find(name).map(|k| k.name)
    };
    let found: Vec<&str> = lines.iter().filter_map(|line| names(line)).collect();
    assert_eq!(found, Config::keys().collect::<Vec<_>>(), "the template has every key, in the order of the table");
    for (n, line) in lines.iter().enumerate().filter(|(_, line)| names(line).is_some()) {
        let before = lines[n - 1];
        assert!(before.starts_with("# ") && before.ends_with(['.', ')', '…', '"']), "no meaning before: {line}");
    }
    let file = TEMPLATE;
    assert_eq!(load(file, &[], &[]).unwrap().config, Config::default());
    // With the examples taken in, all of it can be read; `_file` and `sql_role` are other ways to say the same as a key beside them.
    let examples: String = TEMPLATE
        .lines()
        .map(|l| {
            l.strip_prefix("# ")
                .filter(|l| names(l).is_some() && !l.contains("_file") && !l.contains("sql_role"))
                .unwrap_or(l)
        })
        .fold(String::new(), |all, line| all + line + "\n");
    let all = load(&examples, &[], &[]).unwrap().config;
    assert!(all.database_url.is_some() && all.database_port.as_deref() == Some("5432"), "{all:?}");
    let json = serde_json::to_value(Config::default()).unwrap();
    let mut fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let mut keys: Vec<&str> = Config::keys().collect();
    fields.sort_unstable();
    keys.sort_unstable();
    assert_eq!(fields, keys, "the struct has every key");
}

#[test]
fn a_retention_is_a_span_or_for_ever_of_a_state_or_of_a_workflow() {
    let file =
        "retention_export = 'gone'\n[retention]\ncompleted = '90d'\n[retention_workflows]\n'a.failed' = 'forever'\n";
    let loaded = load(file, &[("STEPD_RETENTION__DEFAULT", "1d")], &[]).unwrap();
    assert_eq!(
        loaded.config.retention,
        BTreeMap::from([("completed", "90d"), ("default", "1d")].map(|(k, v)| (k.into(), v.into())))
    );
    assert!(loaded.config.retention_export.is_some_and(|p| p.is_absolute() && p.ends_with("gone")), "beside the file");
    let file = "[retention]\ncompletd = '1d'\nfailed = 'never'\n[retention_workflows]\na.completed = '1d'\n";
    let wrong = wrong(load(file, &[("STEPD_RETENTION", "1d")], &[]));
    for (line, word) in [
        ":2: `retention.completd`: there is no such entry, only default, completed, failed, cancelled; did you mean `completed`?",
        ":3: `retention.failed`: `never` is no duration: write a whole number and a unit, such as 500ms, 30s, 5m, 2h or 7d; or \"forever\"",
        ":5: `retention_workflows.a`: it must be text in quotes; it is a table",
        "STEPD_RETENTION: `retention` is a table; name one of its entries: STEPD_RETENTION__NAME",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(wrong.get(line).map(String::as_str), Some(word), "{wrong:#?}");
    }
    assert_eq!(wrong.len(), 4, "{wrong:#?}");
}

#[test]
fn servers_and_models_are_tables_of_their_own_and_show_no_secret() {
    let file = "[mcp.store]\ncommand = 'npx'\nargs = ['-y', 'x']\nidle_seconds = 5\n[mcp.store.env]\nSTORE_TOKEN = 'geheim'\n\
        [models.big]\nbase_url = 'http://h/v1'\nmodel = 'm'\napi_key = 'geheim'\nprice_input = 0.25\nprice_output = 2\n";
    let loaded =
        load(file, &[("STEPD_MODELS__BIG__MODEL", "other"), ("STEPD_MCP__FAR__URL", "http://h/mcp")], &[]).unwrap();
    let (store, big) = (&loaded.config.mcp["store"], &loaded.config.models["big"]);
    assert_eq!((store.command.as_deref(), store.idle_seconds), (Some("npx"), Some(5)));
    assert_eq!(
        (store.args.as_slice(), store.env["STORE_TOKEN"].as_str()),
        (["-y", "x"].map(String::from).as_slice(), "geheim")
    );
    assert_eq!((big.model.as_deref(), big.price_input, big.price_output), (Some("other"), Some(0.25), Some(2.0)));
    assert_eq!(loaded.config.mcp["far"].url.as_deref(), Some("http://h/mcp"));
    for (key, place) in [
        ("mcp.store.command", "file:2"),
        ("mcp.store.env", "file:6"),
        ("mcp.far.url", "STEPD_MCP__FAR__URL"),
        ("models.big.model", "STEPD_MODELS__BIG__MODEL"),
        ("models.big.price_output", "file:12"),
    ] {
        assert_eq!(source(&loaded, key), place, "{key}");
    }
    let shown = serde_json::to_string(&loaded.shown()).unwrap();
    assert!(!shown.contains("geheim") && shown.contains(r#"{"STORE_TOKEN":"***"}"#), "{shown}");
    assert!(loaded.config.keys_of_others().collect::<Vec<_>>() == ["geheim", "geheim"]);
}

#[test]
fn what_is_wrong_with_a_server_or_a_model_is_said_part_by_part() {
    let file = "[mcp.store]\ncomand = 'x'\nidle_seconds = 'long'\nenv = 5\n[mcp.Store]\nurl = 'x'\n\
        [models]\nbig = 5\n[models.m]\nprice_input = -1\nstructured = 'xml'\nurl = 'x'\n";
    let wrong = wrong(load(file, &[("STEPD_MCP__STORE__ULR", "x"), ("STEPD_MODELS", "x")], &[]));
    for (line, expected) in [
        ":2: `mcp.store` has no `comand`; did you mean `command`?",
        ":3: `idle_seconds` must be a whole number from 1 to 86400; it is text",
        ":4: `env` must be a table of texts; it is a whole number",
        ":5: `mcp.Store`: a name has lower-case letters, digits, `_` and `-`, and begins with a letter",
        ":8: `models.big` must be a table: [models.big]; it is a whole number",
        ":10: `price_input` must be a price: a number not below 0; it is `-1`",
        ":11: `structured` must be one of \"schema\", \"json\", \"none\"; it is `xml`",
        ":12: `models.m` has no `url`; it may have: base_url, model, api_key, headers, price_input, price_output, price_cached_input, timeout_seconds, rest_seconds, structured",
        "STEPD_MCP__STORE__ULR: `mcp.store` has no part `ulr` here; did you mean `mcp.store.url`?",
        "STEPD_MODELS: `models` is a table; name one of its entries: STEPD_MODELS__NAME",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(wrong.get(line).map(String::as_str), Some(expected), "{wrong:#?}");
    }
    assert_eq!(wrong.len(), 10, "{wrong:#?}");
}
