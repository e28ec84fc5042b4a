//! The workflows that this process can run: Rust code registered here, and definitions by their id.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::db::definitions::Load;
use crate::db::{Database, DbError, Trouble, definitions};
use crate::engine::Workflow;
use crate::model::{Failure, code};

use super::shared::Backoff;

/// Makes a workflow of a definition's text.
pub type Compile = Arc<dyn Fn(&str, &str) -> Result<Arc<dyn Workflow>, Failure> + Send + Sync>;

/// A workflow on its way into the catalog.
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// The content hash of its definition.
    pub hash: String,
    /// The definition's text; `None` for Rust code.
    pub body: Option<String>,
    /// The queue that its jobs go to by default.
    pub queue: String,
    /// Their priority by default.
    pub priority: i16,
    /// The file, for people.
    pub source: Option<String>,
    /// The workflow itself.
    pub workflow: Arc<dyn Workflow>,
}

/// Workflows by definition id, and the ids that claims pin.
pub struct Catalog {
    db: Database,
    compile: Compile,
    by_id: RwLock<HashMap<i32, Arc<dyn Workflow>>>,
    present: RwLock<Arc<Value>>,
    /// What this worker has given to the database, by name.
    given: RwLock<HashMap<String, Given>>,
}

/// A workflow's row as this worker has loaded it.
#[derive(PartialEq)]
struct Given {
    definition: i32,
    queue: String,
    priority: i16,
    source: Option<String>,
}

impl Catalog {
    /// An empty catalog.
    #[must_use]
    pub fn new(db: Database, compile: Compile) -> Self {
        Self {
            db,
            compile,
            by_id: RwLock::default(),
            present: RwLock::new(Arc::new(Value::Object(serde_json::Map::new()))),
            given: RwLock::default(),
        }
    }

    /// Registers workflows in the database and makes them this worker's present ones. All or nothing here; in
    /// the database each is idempotent.
    ///
    /// The last load wins: what this worker has loaded before, as it is, it does not load again, for another worker may have loaded
    /// another version since. (With two versions about, as in a rolling deploy, a run is pinned to the one of its first claimer.)
    ///
    /// # Errors
    /// Whatever the database says; the catalog then stays as it was.
    pub async fn load(&self, loaded: Vec<Loaded>) -> Result<usize, DbError> {
        let mut ids = serde_json::Map::new();
        let (mut workflows, mut given, mut newer) = (Vec::new(), HashMap::new(), Vec::new());
        let mut changed = 0;
        for l in loaded {
            let (name, hash, body) = (&l.name, &l.hash, l.body.as_deref());
            let id = self.db.ask(async |conn| definitions::define(conn, hash, name, body).await).await?;
            let entry = Given { definition: id, queue: l.queue, priority: l.priority, source: l.source };
            let known = self.given.read().unwrap_or_else(PoisonError::into_inner).get(name) == Some(&entry);
            if known {
                newer.extend(self.elsewhere(name, id).await?);
            } else {
                changed += usize::from(self.present_as(name, &entry).await?);
            }
            ids.insert(l.name.clone(), id.into());
            given.insert(l.name, entry);
            workflows.push((id, l.workflow));
        }
        if !newer.is_empty() {
            tracing::info!(
                workflows = newer.join(", "),
                "another worker has loaded other versions of these; their files have not changed here, so the other versions stay"
            );
        }
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).extend(workflows);
        *self.given.write().unwrap_or_else(PoisonError::into_inner) = given;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Value::Object(ids));
        Ok(changed)
    }

    /// Makes it the present one for everybody. True when that changed anything.
    async fn present_as(&self, name: &str, g: &Given) -> Result<bool, DbError> {
        let load = async |conn: &mut sqlx::PgConnection| {
            definitions::load_workflow(conn, name, g.definition, &g.queue, g.priority, g.source.as_deref()).await
        };
        let done = self.db.ask(load).await?;
        if let Load::Replaced(was) = done {
            tracing::info!(
                workflow = name,
                definition = g.definition,
                was,
                "loaded in place of another version; runs that have begun keep theirs"
            );
        }
        Ok(done != Load::Unchanged)
    }

    /// The workflow's name, when the database has another definition of it now.
    async fn elsewhere(&self, name: &str, mine: i32) -> Result<Option<String>, DbError> {
        let present = self.db.ask(async |conn| definitions::definition(conn, None, name).await).await?;
        Ok(present.filter(|p| p.id != mine).map(|_| name.to_owned()))
    }

    /// Stores a workflow's definition and makes it this worker's present one, and no one else's: what jobs of that name
    /// mean elsewhere stays as it is. Gives the definition's id.
    ///
    /// # Errors
    /// Whatever the database says; the catalog then stays as it was.
    pub async fn try_out(&self, loaded: Loaded) -> Result<i32, DbError> {
        let id = {
            let (name, hash, body) = (&loaded.name, &loaded.hash, loaded.body.as_deref());
            self.db.ask(async |conn| definitions::define(conn, hash, name, body).await).await?
        };
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).insert(id, loaded.workflow);
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        let mut ids = present.as_object().cloned().unwrap_or_default();
        ids.insert(loaded.name, id.into());
        *present = Arc::new(Value::Object(ids));
        Ok(id)
    }

    /// What a claim pins: `{workflow: definition id}`.
    #[must_use]
    pub fn present(&self) -> Arc<Value> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The workflow of a run: by its pinned definition, or the workflow's present one in the database.
    ///
    /// # Errors
    /// A failure `definition`, when there is none that this process can run.
    pub async fn workflow(&self, name: &str, id: Option<i32>) -> Result<Arc<dyn Workflow>, Failure> {
        if let Some(id) = id
            && let Some(found) = self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(&id)
        {
            return Ok(found.clone());
        }
        let stored = self
            .stored(id, name)
            .await
            .map_err(|e| {
                Failure::transient(code::DEFINITION, format!("the definition of `{name}` could not be read: {e}"))
            })?
            .ok_or_else(|| {
                Failure::permanent(code::DEFINITION, format!("the definition of `{name}` is gone; load its file again"))
            })?;
        // Transient: another binary, or another version of this one, can run it.
        let Some(body) = stored.body else {
            return Err(Failure::transient(
                code::DEFINITION,
                format!(
                    "`{name}` is Rust code, and this binary does not have it; give it a queue that only its own binary serves"
                ),
            ));
        };
        let workflow = (self.compile)(name, &body)?;
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).insert(stored.id, workflow.clone());
        Ok(workflow)
    }

    /// Reads a stored definition, however long Postgres is away.
    async fn stored(&self, id: Option<i32>, name: &str) -> Result<Option<definitions::Stored>, DbError> {
        let mut backoff = Backoff::default();
        loop {
            match self.db.ask(async |conn| definitions::definition(conn, id, name).await).await {
                Err(error) if error.trouble != Trouble::Refused => tokio::time::sleep(backoff.pause()).await,
                done => return done,
            }
        }
    }
}
