//! `sql` steps in stepd's own database under a role of their own: they reach the application's tables, and nothing of stepd's.

use crate::support::{Db, Files, SOON, Spec, wait_until};

const FLOW: &str = "
name: flow
resume: never
steps:
  - id: effect
    sql: INSERT INTO app.effects (run, role) VALUES ($1, current_user)
    params: [\"${{ run.id }}\"]
  - id: other
    sql: ${STATEMENT}
    retry: {max_attempts: 1}
";

/// A role that may log in, and write the application's table.
async fn role(db: &Db) -> String {
    let role = format!("steps {}", db.name);
    db.exec(format!(
        "CREATE ROLE \"{role}\" LOGIN; CREATE SCHEMA app; CREATE TABLE app.effects (run text, role text);
         GRANT USAGE ON SCHEMA app TO \"{role}\"; GRANT ALL ON app.effects TO \"{role}\""
    ))
    .await;
    role
}

async fn may_record(db: &Db, role: &str) {
    db.exec(format!(
        "GRANT USAGE ON SCHEMA stepd_engine TO \"{role}\"; GRANT EXECUTE ON FUNCTION stepd_engine.commit_step TO \"{role}\""
    ))
    .await;
}

fn login(db: &Db, role: &str) -> String {
    db.url.replacen("postgres://postgres@", &format!("postgres://{}@", role.replace(' ', "%20")), 1)
}

fn flow(name: &str, statement: &str) -> String {
    FLOW.replace("flow", name).replace("${STATEMENT}", &format!("\"{statement}\""))
}

#[tokio::test]
async fn a_sql_step_cannot_touch_what_is_stepds() {
    let db = Db::new().await;
    let role = role(&db).await;
    may_record(&db, &role).await;
    let refused = [
        "UPDATE stepd.jobs SET priority = 0",
        "DELETE FROM stepd_engine.checkpoints",
        "INSERT INTO stepd_engine.events (run, kind) SELECT gen_random_uuid(), 'x'",
        "SELECT stepd_engine.take_over(gen_random_uuid(), false, 0, gen_random_uuid(), 1, 1)",
        "SELECT * FROM stepd_engine.settings",
        "DROP SCHEMA stepd_engine CASCADE",
    ];
    // What a login of its own cannot do either, though it wants to.
    let escapes = [
        "DO $$ BEGIN EXECUTE 'RESET ROLE'; DELETE FROM stepd_engine.checkpoints; END $$",
        "DO $$ BEGIN EXECUTE 'SET SESSION AUTHORIZATION DEFAULT'; DELETE FROM stepd_engine.checkpoints; END $$",
        "DO $$ BEGIN EXECUTE 'SET ROLE postgres'; DELETE FROM stepd_engine.checkpoints; END $$",
        "SELECT set_config('role', 'postgres', false)",
    ];
    let all: Vec<&str> = refused.into_iter().chain(escapes).collect();
    let files = Files::new(all.iter().enumerate().map(|(n, statement)| flow(&format!("w{n}"), statement)));
    for (key, value, n) in
        [("STEPD_SQL_ROLE", role.clone(), refused.len()), ("STEPD_SQL_URL", login(&db, &role), all.len())]
    {
        let mut worker = Spec::new(&db, &files).env(key, value).ready().await;
        for (n, statement) in all[..n].iter().enumerate() {
            let run = db.enqueue(&format!("w{n}"), "{}").await;
            db.reaches(&run, "failed", SOON).await;
            let told: String = db
                .one(format!(
                    "SELECT step || ' ' || error_code || ' ' || error_message FROM stepd.runs WHERE id = '{run}'"
                ))
                .await;
            let wanted = if statement.starts_with("DROP") { "must be owner" } else { "permission denied" };
            assert!(told.starts_with("other sql_42501 ") && told.contains(wanted), "{statement}: {told}");
            let by: String = db.one(format!("SELECT role FROM app.effects WHERE run = '{run}'")).await;
            assert_eq!(by, role, "the step before it has its effect, once");
        }
        assert_eq!(worker.logged("daemon's own database role"), 0);
        assert_eq!(worker.drain(SOON).await, Some(0));
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn under_its_own_role_a_sql_step_happens_exactly_once_over_a_kill() {
    let db = Db::new().await;
    let role = role(&db).await;
    may_record(&db, &role).await;
    let files = Files::new([flow("flow", "SELECT 1")]);
    for value in [("STEPD_SQL_ROLE", role.clone()), ("STEPD_SQL_URL", login(&db, &role))] {
        let spec = Spec::new(&db, &files).env(value.0, &value.1);
        for point in ["sql.before_commit", "sql.after_commit"] {
            let mut doomed = spec.clone().failpoints(&format!("{point}=1:kill")).ready().await;
            let run = db.enqueue("flow", "{}").await;
            wait_until("it is killed", SOON, async || !doomed.is_running()).await;
            let mut heir = spec.ready().await;
            db.reaches(&run, "completed", SOON).await;
            assert_eq!(db.count(format!("SELECT count(*) FROM app.effects WHERE run = '{run}'")).await, 1, "{point}");
            assert_eq!(heir.drain(SOON).await, Some(0));
        }
    }
}

#[tokio::test]
async fn a_role_that_is_of_no_use_is_refused_at_the_start_with_the_next_step() {
    let db = Db::new().await;
    let role = role(&db).await;
    let files = Files::new([flow("flow", "SELECT 1")]);
    let own = Spec::new(&db, &files);
    let grants = format!(
        "the role {role} may not record a finished step; run: GRANT USAGE ON SCHEMA stepd_engine TO \\\"{role}\\\"; \
         GRANT EXECUTE ON FUNCTION stepd_engine.commit_step TO \\\"{role}\\\""
    );
    for (spec, told) in [
        (own.clone().env("STEPD_SQL_ROLE", &role), grants.as_str()),
        (own.clone().env("STEPD_SQL_ROLE", "postgres"), "the role postgres may write to stepd's own tables"),
        (own.clone().env("STEPD_SQL_ROLE", "nobody\"; SELECT 1"), "does not exist"),
        (own.clone().env("STEPD_SQL_ROLE", &role).env("STEPD_SQL_URL", &db.url), "sql_role and sql_url are both set"),
        (own.clone().env("STEPD_SQL_URL", "mysql"), "sql_url"),
    ] {
        let mut worker = spec.start();
        let code = worker.ends(SOON).await.code();
        assert!(matches!(code, Some(1 | 2)), "{code:?}");
        assert_eq!(worker.logged(told), 1, "{told}: {}", worker.log());
    }
}

#[tokio::test]
async fn without_a_role_of_their_own_sql_steps_run_and_the_log_says_once_as_whom() {
    let db = Db::new().await;
    role(&db).await;
    let files = Files::new([flow("flow", "SELECT 1")]);
    let mut worker = Spec::new(&db, &files).ready().await;
    for _ in 0..3 {
        let run = db.enqueue("flow", "{}").await;
        db.reaches(&run, "completed", SOON).await;
    }
    assert_eq!(worker.logged("daemon's own database role"), 1);
    assert_eq!(worker.drain(SOON).await, Some(0));
}
