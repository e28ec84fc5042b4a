//! Takes stepd out of a database: its schemas, and its roles where nothing else needs them. The rest stays as it is.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::error::DbError;
use super::migrate::applied;

/// All schemas that stepd ever makes.
const SCHEMAS: &str =
    "{stepd,stepd_engine,stepd_runtime,stepd_afu9,stepd_tables,stepd_runtime_tables,stepd_afu9_tables}";

/// All roles.
const ROLES: &str = "{stepd_enqueue,stepd_read,stepd_operate,stepd_serve,stepd_daemon}";

/// What there is to take away.
#[derive(Clone, Debug, Default)]
pub struct Installed {
    /// Its schemas here.
    pub schemas: Vec<String>,
    /// Its roles in this cluster.
    pub roles: Vec<String>,
    /// Runs that have not ended …
    pub unfinished: i64,
    /// … and, by the statistics, those that have.
    pub ended: i64,
    /// Workers that live.
    pub workers: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Removed {
    /// It is gone, but for these roles, each with the reason.
    Gone(Vec<(String, String)>),
    /// Nothing was changed: these things of others are made of stepd's, and would go with them.
    Needed(Vec<String>),
}

/// What is here?
///
/// # Errors
/// Whatever the database says.
pub async fn look(conn: &mut PgConnection) -> Result<Installed, DbError> {
    let names = format!(
        "SELECT ARRAY(SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname = ANY ('{SCHEMAS}'::name[]) ORDER BY 1),
            ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.rolname = ANY ('{ROLES}'::name[]) ORDER BY 1)"
    );
    let (schemas, roles) = sqlx::query_as(AssertSqlSafe(names)).fetch_one(&mut *conn).await?;
    let mut found = Installed { schemas, roles, ..Installed::default() };
    if applied(conn).await?.0 > 0 {
        let sql = "SELECT (SELECT count(*) FROM stepd.jobs),
                (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class c WHERE c.oid = 'stepd_engine.ended'::regclass),
                ARRAY(SELECT format('%s:%s', w.host, w.pid) FROM stepd_engine.workers w
                    WHERE stepd_engine.worker_alive(w.beat_at, w.lease_ms) ORDER BY 1)";
        (found.unfinished, found.ended, found.workers) = sqlx::query_as(sql).fetch_one(conn).await?;
    }
    Ok(found)
}

/// Everything in the schemas of others that could go with stepd's: tables, columns, views, functions, types, constraints, defaults,
/// rules, triggers and policies.
const OTHERS: &str = "
    SELECT o.class, o.id, o.sub FROM (
        SELECT 'pg_class'::regclass::oid AS class, c.oid AS id, 0 AS sub, c.relnamespace AS schema FROM pg_class c
        UNION ALL SELECT 'pg_class'::regclass, a.attrelid, a.attnum, c.relnamespace FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            WHERE a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT 'pg_proc'::regclass, p.oid, 0, p.pronamespace FROM pg_proc p
        UNION ALL SELECT 'pg_type'::regclass, t.oid, 0, t.typnamespace FROM pg_type t
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid, 0, k.connamespace FROM pg_constraint k
        UNION ALL SELECT 'pg_attrdef'::regclass, d.oid, 0, c.relnamespace FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
        UNION ALL SELECT 'pg_rewrite'::regclass, r.oid, 0, c.relnamespace FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
        UNION ALL SELECT 'pg_trigger'::regclass, g.oid, 0, c.relnamespace FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
        UNION ALL SELECT 'pg_policy'::regclass, y.oid, 0, c.relnamespace FROM pg_policy y JOIN pg_class c ON c.oid = y.polrelid
    ) o JOIN pg_namespace n ON n.oid = o.schema
    WHERE n.nspname <> ALL ('{SCHEMAS}'::name[]) AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'";

/// Takes it away, in one transaction. Where something of others would go with it, nothing is changed. It waits for nobody for longer
/// than two seconds.
///
/// # Errors
/// Whatever the database says; nothing is changed then.
pub async fn remove(conn: &mut PgConnection, found: &Installed) -> Result<Removed, DbError> {
    let others = OTHERS.replace("{SCHEMAS}", SCHEMAS);
    let mut tx = conn.begin().await?;
    let begin = format!(
        "SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0; SET LOCAL client_min_messages = warning;
         CREATE TEMP TABLE stepd_others ON COMMIT DROP AS
            SELECT x.*, pg_describe_object(x.class, x.id, x.sub) AS what FROM ({others}) x"
    );
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *tx).await?;
    for schema in &found.schemas {
        let drop = format!("DROP SCHEMA {schema} CASCADE");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *tx).await?;
    }
    // A rule's or a column's name says more than that of the view or table that went with it, and comes with it.
    let gone = format!(
        "SELECT b.what FROM stepd_others b LEFT JOIN ({others}) x USING (class, id, sub)
         WHERE x.id IS NULL AND b.class NOT IN ('pg_type'::regclass, 'pg_rewrite'::regclass) ORDER BY b.sub, b.what"
    );
    let gone: Vec<String> = sqlx::query_scalar(AssertSqlSafe(gone)).fetch_all(&mut *tx).await?;
    if !gone.is_empty() {
        tx.rollback().await?;
        return Ok(Removed::Needed(gone));
    }
    let mut kept = Vec::new();
    for role in &found.roles {
        // Of the whole cluster: another database may have stepd, too.
        let mut one = tx.begin().await?;
        match sqlx::raw_sql(AssertSqlSafe(format!("DROP ROLE {role}"))).execute(&mut *one).await {
            Ok(_) => one.commit().await?,
            Err(error) => {
                one.rollback().await?;
                let error = DbError::from(error);
                let detail = error.detail().map(|d| format!(": {}", d.replace('\n', ", "))).unwrap_or_default();
                kept.push((role.clone(), format!("{error}{detail}")));
            }
        }
    }
    tx.commit().await?;
    Ok(Removed::Gone(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_and_role_that_is_made_is_taken_away() {
        let optional =
            [include_str!("../../migrations/optional/views.sql"), include_str!("../../migrations/optional/tables.sql")];
        let all = crate::db::migrate::MIGRATIONS.iter().map(|m| m.text).chain(optional);
        for text in all {
            for made in text.split("CREATE SCHEMA ").skip(1) {
                let name = made.trim_start_matches("IF NOT EXISTS ").split(';').next().unwrap();
                assert!(SCHEMAS[1..SCHEMAS.len() - 1].split(',').any(|known| known == name), "{name}");
            }
        }
        assert!(include_str!("../../migrations/optional/roles.sql").contains(&format!("'{ROLES}'")));
    }
}
