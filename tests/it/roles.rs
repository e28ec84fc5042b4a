//! Least privilege: each role tries every table, view, sequence and function, what it may and what it must not; and each does its work.

use std::collections::BTreeMap;

use crate::cli::{stepd, stepd_at};
use crate::support::{Db, Files, SOON, Spec};

/// The roles, and somebody who has none of them.
const ROLES: [&str; 6] =
    ["stepd_enqueue", "stepd_read", "stepd_operate", "stepd_serve", "stepd_daemon", "stepd_nobody"];

/// Who may read each relation of the contract, and who may call each function of it: e, r, o, s, d. Nobody else, and nothing else;
/// what stands in neither list has not been decided, and fails the walk.
const RELATIONS: &[(&str, &str)] = &[
    ("attempts", "rosd"),
    ("breakers", "rosd"),
    ("costs", "rosd"),
    ("daily", "rosd"),
    ("daily_costs", "rosd"),
    ("daily_durations", "rosd"),
    ("daily_failures", "rosd"),
    ("definitions", "rosd"),
    ("history", "rosd"),
    ("jobs", "rosd"),
    ("locks", "rosd"),
    ("logs", "rosd"),
    ("queues", "rosd"),
    ("runs", "rosd"),
    ("schedules", "rosd"),
    ("settings", "rosd"),
    ("states", "rosd"),
    ("steps", "rosd"),
    ("versions", "erosd"),
    ("waiting", "rosd"),
    ("workers", "rosd"),
    ("workflows", "rosd"),
];
const FUNCTIONS: &[(&str, &str)] = &[
    ("approve", "osd"),
    ("cancel", "osd"),
    ("emit", "eosd"),
    ("enqueue", "esd"),
    ("fork", "osd"),
    ("limit_queue", "osd"),
    ("pause", "osd"),
    ("pause_queue", "osd"),
    ("pause_schedule", "osd"),
    ("reject", "osd"),
    ("retire_workflow", "osd"),
    ("retry", "osd"),
    ("run_schedule", "osd"),
    ("signal", "eosd"),
    ("stats", "rosd"),
    ("unique_key", "erosd"),
    ("unpause", "osd"),
    ("unpause_queue", "osd"),
    ("unpause_schedule", "osd"),
    ("why", "rosd"),
];

/// What stands in a view is checked against its reader: these are pure, and tell nothing.
const PURE: [&str; 6] = ["bucket_end", "bucket_middle", "failure_field", "failure_json", "uuid_time", "worker_alive"];

/// Strict: given a NULL, the planner answers for them, and asks for no right; so the walk sees no refusal where the schema is open.
const STRICT: [&str; 4] = ["distance", "failure_text", "span", "target_of"];

/// What the HTTP server alone reads of what is private, and where it writes.
const READ_BY_SERVE: [&str; 8] =
    ["checkpoints", "definitions", "deliveries", "ended", "events", "settings", "signals", "workflows"];
const WRITTEN_BY_SERVE: [&str; 3] = ["definitions", "deliveries", "workflows"];

/// The user's columns.
const COLUMNS: [&str; 10] = [
    "workflow",
    "input",
    "queue",
    "priority",
    "run_at",
    "unique_key",
    "concurrency_key",
    "labels",
    "traceparent",
    "session_id",
];

/// Tries a statement as a role, and takes it back: '' where it went through, else its SQLSTATE.
const TRY: &str = "CREATE FUNCTION public.try(role_ text, sql_ text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role_);
    EXECUTE sql_;
    RAISE SQLSTATE 'TRYOK';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE SQLSTATE WHEN 'TRYOK' THEN '' ELSE SQLSTATE END;
END $$";

pub async fn db_with_roles() -> Db {
    let db = Db::new().await;
    let done = stepd(&db, &["migrate", "--roles"]).await.is(0);
    assert!(done.out.contains("GRANT stepd_enqueue"), "{}", done.out);
    db.exec("DO $$ BEGIN CREATE ROLE stepd_nobody; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$")
        .await;
    db
}

/// A login with one role; its URL.
pub async fn login(db: &Db, role: &str) -> String {
    let name = format!("{role}_{}", db.name);
    db.exec(format!("CREATE ROLE {name} LOGIN IN ROLE {role}")).await;
    db.url.replacen("postgres://postgres@", &format!("postgres://{name}@"), 1)
}

fn letter(role: &str) -> char {
    role.chars().nth("stepd_".len()).unwrap()
}

/// Statements of a kind, and who may: by what the walk asks for.
async fn walk(db: &Db, sql: &str, wanted: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for role in ROLES {
        let told: Vec<(String, String, String)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT x.name, x.sql, public.try('{role}', x.sql) FROM ({sql}) x(name, sql) ORDER BY 1, 2"
        )))
        .fetch_all(&db.pool)
        .await
        .unwrap();
        assert!(!told.is_empty());
        for (name, sql, state) in told {
            // 55000, 428C9: a view, or a column of it, that takes no writes from anybody.
            let refused = ["42501", "55000", "428C9"].contains(&state.as_str());
            if refused == wanted(role, &name) {
                wrong.push(format!("{role}: {sql}: {state:?}"));
            }
        }
    }
    wrong
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for_and_nothing_else() {
    let db = db_with_roles().await;
    db.exec(TRY).await;
    let relations: BTreeMap<&str, &str> = RELATIONS.iter().copied().collect();
    let functions: BTreeMap<&str, &str> = FUNCTIONS.iter().copied().collect();
    let there: Vec<String> = db
        .all("SELECT relname::text FROM pg_class WHERE relnamespace = 'stepd'::regnamespace AND relkind IN ('r', 'v', 'm', 'p', 'f', 'S') ORDER BY 1")
        .await;
    assert_eq!(there, relations.keys().copied().collect::<Vec<_>>(), "each relation has its decision");
    let there: Vec<String> = db
        .all("SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'stepd'::regnamespace ORDER BY 1")
        .await;
    assert_eq!(there, functions.keys().copied().collect::<Vec<_>>(), "each function has its decision");

    let of = |schema: &str, kinds: &str, sql: &str| {
        format!("SELECT c.relname::text, format('{sql}', c.oid::regclass, (SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND attidentity = '' ORDER BY attnum LIMIT 1))
            FROM pg_class c WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind IN ({kinds})")
    };
    let (select, insert) = ("SELECT * FROM %1$s LIMIT 1", "INSERT INTO %1$s (%2$s) SELECT %2$s FROM %1$s WHERE false");
    let (update, delete) = ("UPDATE %1$s SET %2$s = %2$s WHERE false", "DELETE FROM %1$s WHERE false");
    let own =
        ["TRUNCATE %1$s", "ALTER TABLE %1$s ADD COLUMN x integer", "DROP TABLE %1$s", "COMMENT ON TABLE %1$s IS ''''"];
    let mut wrong = Vec::new();
    wrong.extend(walk(&db, &of("stepd", "'r','v'", select), |role, name| relations[name].contains(letter(role))).await);
    wrong.extend(walk(&db, &of("stepd", "'v'", insert), |_, _| false).await);
    wrong.extend(walk(&db, &of("stepd", "'v'", update), |_, _| false).await);
    wrong.extend(walk(&db, &of("stepd", "'v'", delete), |_, _| false).await);
    for sql in [insert, update, delete] {
        wrong.extend(walk(&db, &of("stepd", "'r'", sql), |role, _| role == "stepd_daemon").await);
    }
    let serves = |role: &str, name: &str, names: &[&str]| role == "stepd_serve" && names.contains(&name);
    let may = |role: &str, name: &str| role == "stepd_daemon" || serves(role, name, &READ_BY_SERVE);
    wrong.extend(walk(&db, &of("stepd_engine", "'r'", select), may).await);
    for sql in [insert, update, delete] {
        let may = |role: &str, name: &str| {
            role == "stepd_daemon" && name != "migrations" || sql == insert && serves(role, name, &WRITTEN_BY_SERVE)
        };
        wrong.extend(walk(&db, &of("stepd_engine", "'r'", sql), may).await);
    }
    for sql in own {
        wrong.extend(walk(&db, &of("stepd", "'r'", sql), |_, _| false).await);
        wrong.extend(walk(&db, &of("stepd_engine", "'r'", sql), |_, _| false).await);
    }
    let sequences = of("stepd_engine", "'S'", "SELECT nextval(''%1$s'')");
    wrong.extend(walk(&db, &sequences, |role, _| role == "stepd_daemon").await);

    let columns = |sql: &str| {
        format!(
            "SELECT a.attname::text, format('{sql}', quote_ident(a.attname), a.atttypid::regtype) FROM pg_attribute a
            WHERE a.attrelid = 'stepd.jobs'::regclass AND a.attnum > 0 AND NOT a.attisdropped"
        )
    };
    let written = columns("INSERT INTO stepd.jobs (%1$s) SELECT NULL::%2$s WHERE false");
    let enqueues = ["stepd_enqueue", "stepd_serve"];
    let may = |role: &str, name: &str| role == "stepd_daemon" || enqueues.contains(&role) && COLUMNS.contains(&name);
    wrong.extend(walk(&db, &written, may).await);
    let seen = ["id", "workflow", "unique_key", "state"];
    let may = |role: &str, name: &str| "rosd".contains(letter(role)) || role == "stepd_enqueue" && seen.contains(&name);
    wrong.extend(walk(&db, &columns("SELECT %1$s FROM stepd.jobs WHERE false"), may).await);

    // Whatever a call without arguments comes to, it comes to it: only the right to call is asked about.
    let calls = |schema: &str| {
        format!(
            "SELECT p.proname::text, format('SELECT %s.%I(%s)', p.pronamespace::regnamespace, p.proname,
                (SELECT string_agg(format('NULL::%s', t.oid::regtype), ', ') FROM unnest(p.proargtypes) AS t(oid)))
            FROM pg_proc p WHERE p.pronamespace = '{schema}'::regnamespace AND p.prorettype <> 'trigger'::regtype"
        )
    };
    wrong.extend(walk(&db, &calls("stepd"), |role, name| functions[name].contains(letter(role))).await);
    let may = |role: &str, name: &str| {
        role == "stepd_daemon"
            || role == "stepd_serve" && (PURE.contains(&name) || STRICT.contains(&name) || name == "first_id")
    };
    wrong.extend(walk(&db, &calls("stepd_engine"), may).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn public_has_nothing_and_every_function_finds_its_names_where_its_owner_put_them() {
    let db = db_with_roles().await;
    let public: Vec<String> = db
        .all("SELECT p.oid::regprocedure::text FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            WHERE p.pronamespace IN ('stepd'::regnamespace, 'stepd_engine'::regnamespace) AND a.grantee = 0 ORDER BY 1")
        .await;
    let names: Vec<&str> =
        public.iter().map(|f| f.trim_start_matches("stepd_engine.").split('(').next().unwrap()).collect();
    assert_eq!(names, PURE, "nothing else may be called by anybody");
    let granted: Vec<String> = db
        .all("SELECT c.oid::regclass::text FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace IN ('stepd'::regnamespace, 'stepd_engine'::regnamespace) AND a.grantee = 0
            UNION ALL SELECT n.nspname::text FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname IN ('stepd', 'stepd_engine') AND a.grantee = 0")
        .await;
    assert_eq!(granted, Vec::<String>::new());
    // What runs with its owner's rights looks nothing up in the caller's path: it is pinned, or names everything in full (the trigger of
    // every INSERT, which would pay for it; checked below by an INSERT under a hostile path).
    let open: Vec<String> = db
        .all("SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace IN ('stepd'::regnamespace, 'stepd_engine'::regnamespace) AND p.prosecdef
            AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)")
        .await;
    assert_eq!(open, ["jobs_before_insert"]);
    db.exec("INSERT INTO stepd_engine.definitions (hash, workflow) VALUES ('h', 'w'); INSERT INTO stepd_engine.workflows (name, definition) SELECT 'w', id FROM stepd_engine.definitions;
        CREATE SCHEMA hostile; GRANT USAGE, CREATE ON SCHEMA hostile TO stepd_enqueue").await;
    let url = login(&db, "stepd_enqueue").await;
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    // Functions and operators of its own would be found first. (Of `coalesce` there can be none; a type of its own is tried in views.sql.)
    let trap = "CREATE FUNCTION hostile.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
        CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.trap);
        CREATE OPERATOR hostile.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.trap); SET stepd.actor = 'x';
        CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
        CREATE FUNCTION hostile.concat(text, text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
        SET search_path = hostile, pg_catalog; INSERT INTO stepd.jobs (workflow) VALUES ('w');
        SELECT stepd.enqueue('w'), stepd.emit('x'), stepd.unique_key('w')";
    sqlx::raw_sql(trap).execute(&mut conn).await.unwrap();
    assert_eq!(db.count("SELECT count(*) FROM stepd.jobs").await, 2);
}

const WORKFLOWS: [&str; 3] = [
    "name: quick\nsteps: [{id: a, run: echo 1}, {id: b, set: 2}]\n",
    "name: ask\nresume: never\nsteps:\n  - id: ok\n    approve: Sure?\n  - id: charge\n    run: test -e @DIR@/there\n    retry: {max_attempts: 1}\n",
    "name: patient\nsteps:\n  - id: go\n    wait: go\n",
];

#[tokio::test]
async fn a_daemon_an_application_and_people_do_their_work_each_with_its_own_role() {
    let db = db_with_roles().await;
    let files = Files::new(WORKFLOWS);
    let (daemon, app, reader, operator) = (
        login(&db, "stepd_daemon").await,
        login(&db, "stepd_enqueue").await,
        login(&db, "stepd_read").await,
        login(&db, "stepd_operate").await,
    );
    let spec = Spec::new(&Db { url: daemon.clone(), ..db.clone() }, &files).env("STEPD_RETENTION__CANCELLED", "0s");
    let mut killed = spec.ready().await;
    let as_app = async |sql: &str| {
        let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&app).await.unwrap();
        sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_all(&mut conn)
            .await
            .map_err(|e| e.to_string())
    };
    let one = as_app("INSERT INTO stepd.jobs (workflow, input, priority, labels, unique_key) VALUES ('quick', '{\"n\": 1}', 3, '{\"a\": \"b\"}', 'k')
        ON CONFLICT DO NOTHING RETURNING id::text").await.unwrap();
    assert_eq!(one.len(), 1);
    as_app("INSERT INTO stepd.jobs (workflow) SELECT 'quick' FROM generate_series(1, 100) ON CONFLICT (workflow, unique_key) WHERE unique_key IS NOT NULL DO NOTHING").await.unwrap();
    let ask = as_app("SELECT stepd.enqueue('ask', unique_key => 'x')::text FROM generate_series(1, 2)").await.unwrap();
    assert_eq!(ask[0], ask[1], "the same key, the same run");
    {
        let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&app).await.unwrap();
        let mut copy = conn.copy_in_raw("COPY stepd.jobs (workflow, input) FROM STDIN").await.unwrap();
        copy.send("patient\t{}\npatient\t{\"n\": 2}\n".as_bytes()).await.unwrap();
        assert_eq!(copy.finish().await.unwrap(), 2);
    }
    for refused in [
        "SELECT input::text FROM stepd.jobs",
        "SELECT id::text FROM stepd.runs",
        "DELETE FROM stepd.jobs RETURNING id::text",
        "SELECT stepd.cancel(NULL)",
        "INSERT INTO stepd.jobs (workflow, created_by) VALUES ('quick', 'somebody') RETURNING id::text",
        "SELECT hash FROM stepd_engine.definitions",
    ] {
        assert!(as_app(refused).await.unwrap_err().contains("permission denied"), "{refused}");
    }
    db.step_reaches(&ask[0], "ok", "waiting", SOON).await;
    killed.kill9();
    let mut heir = spec.ready().await;

    let run = async |url: &str, args: &[&str]| {
        let (url, args) = (url.to_owned(), args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        tokio::task::spawn_blocking(move || stepd_at(Some(&url), &args.iter().map(String::as_str).collect::<Vec<_>>()))
            .await
            .unwrap()
    };
    let patient: Vec<String> = db.all("SELECT id::text FROM stepd.jobs WHERE workflow = 'patient' ORDER BY id").await;
    run(&app, &["enqueue", "quick"]).await.is(0);
    run(&app, &["signal", &patient[0], "go"]).await.is(0);
    run(&operator, &["approve", &ask[0]]).await.is(0);
    db.reaches(&ask[0], "failed", SOON).await;
    std::fs::write(files.path("there"), "").unwrap();
    for args in [
        &["retry", ask[0].as_str()][..],
        &["pause", &patient[1]],
        &["unpause", &patient[1]],
        &["queue", "pause", "default"],
        &["queue", "unpause", "default"],
        &["fork", &ask[0], "--from", "charge"],
        &["cancel", &patient[1]],
        &["emit", "nothing"],
        &["workflow", "retire", "patient"],
    ] {
        run(&operator, args).await.is(0);
    }
    db.reaches(&ask[0], "completed", SOON).await;
    let workflows = files.workflows().display().to_string();
    for args in [
        &["ls"][..],
        &["show", &ask[0]],
        &["why", &ask[0]],
        &["watch", &ask[0]],
        &["ls", "--state", "completed", "-o", "json"],
        &["queue", "ls"],
        &["worker", "ls"],
        &["schedule", "ls"],
        &["workflow", "ls"],
        &["workflow", "show", "quick"],
        &["db"],
        &["show", &ask[0], "--attempts"],
        &["show", &ask[0], "--step", "charge"],
        &["logs", &ask[0]],
        &["lock", "ls"],
        &["stats"],
        &["cost", "--by", "key"],
        &["cost", "--by", "label:team"],
        &["check", "--in-flight", &workflows],
    ] {
        run(&reader, args).await.is(0);
    }
    // Removing history is the daemon's, and so is counting what would go.
    for how in ["--yes", "--dry-run"] {
        let prune = ["prune", "--older-than", "90d", how];
        for url in [&app, &reader, &operator] {
            run(url, &prune).await.is(4).says("permission denied");
        }
        run(&daemon, &prune).await.is(0).says("0 runs");
    }
    let doctor = run(&reader, &["doctor"]).await;
    assert!(
        doctor.out.contains("neither a superuser nor the owner") && !doctor.out.contains("denied"),
        "{}",
        doctor.out
    );
    run(&reader, &["cancel", &ask[0]]).await.says("permission denied");
    let mut unfinished: i64 = -1;
    crate::support::wait_until(
        "what the application enqueued has ended, and what was cancelled is pruned",
        SOON,
        async || {
            unfinished = db.count("SELECT count(*) FROM stepd.runs WHERE state NOT IN ('completed')").await;
            unfinished == 0
        },
    )
    .await;
    let figures: i64 = db.count("SELECT coalesce(sum(completed), 0)::bigint FROM stepd.stats(name => 'quick')").await;
    assert!(figures <= 102, "{figures}");
    assert_eq!(heir.logged("permission denied"), 0, "{}", heir.log());
    assert_eq!(heir.drain(SOON).await, Some(0));
}

#[tokio::test]
async fn who_acts_is_the_login_whatever_it_says_of_itself() {
    let db = db_with_roles().await;
    let files = Files::new(WORKFLOWS);
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("patient", "{}").await;
    db.step_reaches(&run, "go", "waiting", SOON).await;
    let url = login(&db, "stepd_operate").await;
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let acts = format!(
        "SET stepd.actor = 'postgres'; SELECT stepd.pause('{run}'); SELECT stepd.pause_queue('q', 'the chief')"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(acts)).execute(&mut conn).await.unwrap();
    let me = format!("stepd_operate_{}", db.name);
    let told: Vec<String> = db.all(format!("SELECT by_whom FROM stepd.history WHERE run = '{run}' AND event = 'paused' UNION ALL SELECT paused_by FROM stepd.queues WHERE name = 'q'")).await;
    assert_eq!(told, [format!("{me}/postgres"), format!("{me}/postgres for the chief")]);
    let who: Result<String, _> = sqlx::query_scalar("SET SESSION AUTHORIZATION postgres").fetch_one(&mut conn).await;
    assert!(who.unwrap_err().to_string().contains("permission denied"));
}

#[tokio::test]
async fn who_may_not_set_the_roles_up_is_told_what_to_do_and_a_daemon_that_may_not_migrate_who_may() {
    let db = db_with_roles().await;
    stepd(&db, &["migrate", "--roles"]).await.is(0);
    let daemon = login(&db, "stepd_daemon").await;
    let done = tokio::task::spawn_blocking({
        let url = daemon.clone();
        move || stepd_at(Some(&url), &["migrate", "--roles"])
    })
    .await
    .unwrap();
    done.is(1).says("does not own stepd's schema").says("as postgres");
    // As after an upgrade of the binary.
    db.exec("DELETE FROM stepd_engine.migrations WHERE version = (SELECT max(version) FROM stepd_engine.migrations)")
        .await;
    let files = Files::new([WORKFLOWS[0]]);
    let mut worker = Spec::new(&Db { url: daemon, ..db.clone() }, &files).start();
    assert!(!worker.ends(SOON).await.success());
    assert_eq!(worker.logged("run stepd migrate as postgres"), 1, "{}", worker.log());
}
