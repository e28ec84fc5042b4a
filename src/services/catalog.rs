//! The workflows that this process can run: Rust code registered here, and definitions by their id.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::db::definitions::{self, Given, Load};
use crate::db::schedules::{self, Times};
use crate::db::{Database, DbError, Trouble};
use crate::definition::Schedule;
use crate::engine::Workflow;
use crate::model::{Failure, code};

use super::shared::Backoff;

/// Makes a workflow of a definition's text.
pub type Compile = Arc<dyn Fn(&str, &str) -> Result<Arc<dyn Workflow>, Failure> + Send + Sync>;

/// A workflow on its way into the catalog.
#[derive(Clone)]
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
    /// `unique`, `concurrency` and `rate`, as JSON text.
    pub flow: Option<String>,
    /// When runs of it start by themselves.
    pub schedule: Option<Schedule>,
    /// The file, for people.
    pub source: Option<String>,
    /// The workflow itself.
    pub workflow: Arc<dyn Workflow>,
}

impl Loaded {
    fn given(&self) -> Given<'_> {
        Given {
            workflow: &self.name,
            hash: &self.hash,
            body: self.body.as_deref(),
            queue: &self.queue,
            priority: self.priority,
            flow: self.flow.as_deref(),
            source: self.source.as_deref(),
            handlers: self.workflow.has_handlers(),
            known: false,
        }
    }

    fn times(&self) -> Option<Times<'_>> {
        self.schedule.as_ref().map(|s| Times {
            cron: &s.cron,
            timezone: &s.timezone,
            overlap: s.overlap,
            catch_up: s.catch_up.as_str(),
        })
    }

    fn row(&self) -> Row {
        (self.hash.clone(), self.queue.clone(), self.priority, self.source.clone())
    }
}

/// Workflows by definition id, and the ids that claims pin.
pub struct Catalog {
    db: Database,
    compile: RwLock<Compile>,
    by_id: RwLock<HashMap<i32, Arc<dyn Workflow>>>,
    present: RwLock<Arc<Value>>,
    /// What this worker has loaded into the database, by name.
    loaded: RwLock<HashMap<String, Row>>,
}

/// A workflow's row as this worker has loaded it: hash (of all that the file says), queue, priority, file.
type Row = (String, String, i16, Option<String>);

impl Catalog {
    /// An empty catalog.
    #[must_use]
    pub fn new(db: Database, compile: Compile) -> Self {
        Self {
            db,
            compile: RwLock::new(compile),
            by_id: RwLock::default(),
            present: RwLock::new(Arc::new(Value::Object(serde_json::Map::new()))),
            loaded: RwLock::default(),
        }
    }

    /// Registers workflows in the database and makes them this worker's present ones. All or nothing, in two
    /// statements however many they are. Returns how many changed anything.
    ///
    /// The last load wins: what this worker has loaded before, as it is, it does not load again, for another worker may have loaded
    /// another version since. (With two versions about, as in a rolling deploy, a run is pinned to the one of its first claimer.)
    ///
    /// # Errors
    /// Whatever the database says; the catalog then stays as it was.
    pub async fn load(&self, loaded: Vec<Loaded>) -> Result<usize, DbError> {
        let (known, gone): (Vec<bool>, Vec<String>) = {
            let before = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
            let gone = before.keys().filter(|name| loaded.iter().all(|l| l.name != **name)).cloned().collect();
            (loaded.iter().map(|l| before.get(&l.name) == Some(&l.row())).collect(), gone)
        };
        let given: Vec<Given<'_>> = loaded.iter().zip(known).map(|(l, known)| Given { known, ..l.given() }).collect();
        let found = self.db.ask(async |conn| definitions::load(conn, &given).await).await?;
        // A file that this worker had and has no longer starts nothing any more; jobs may still name its workflow.
        let news = loaded.iter().zip(given.iter().zip(&found)).filter(|(_, (g, f))| !g.known || f.was.is_none());
        let times: Vec<(&str, Option<Times<'_>>)> =
            news.map(|(l, _)| (&*l.name, l.times())).chain(gone.iter().map(|name| (&**name, None))).collect();
        if !times.is_empty() {
            self.db.ask(async |conn| schedules::load(conn, &times).await).await?;
        }
        tell(&given, &found);
        let changed = found.iter().filter(|f| f.changed).count();
        let (mut ids, mut rows, mut workflows) = (serde_json::Map::new(), HashMap::new(), Vec::new());
        for (l, Load { id, .. }) in loaded.into_iter().zip(found) {
            rows.insert(l.name.clone(), l.row());
            ids.insert(l.name, id.into());
            workflows.push((id, l.workflow));
        }
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).extend(workflows);
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = rows;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Value::Object(ids));
        Ok(changed)
    }

    /// [`Catalog::load`], and from then on everything, older definitions too, is made by `compile`: with its values for `env` and
    /// `secrets`. A run in flight goes on with what it has. For daemons whose workflows are all files.
    ///
    /// # Errors
    /// Whatever the database says; the catalog then stays as it was.
    pub async fn swap(&self, loaded: Vec<Loaded>, compile: Compile) -> Result<usize, DbError> {
        let changed = self.load(loaded).await?;
        *self.compile.write().unwrap_or_else(PoisonError::into_inner) = compile;
        let present = self.present();
        let ids: Vec<_> = present.as_object().into_iter().flat_map(|p| p.values()).filter_map(Value::as_i64).collect();
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| ids.contains(&i64::from(*id)));
        Ok(changed)
    }

    /// Stores a workflow's definition and makes it this worker's present one, and no one else's: what jobs of that name
    /// mean elsewhere stays as it is. Gives the definition's id.
    ///
    /// # Errors
    /// Whatever the database says; the catalog then stays as it was.
    pub async fn try_out(&self, loaded: Loaded) -> Result<i32, DbError> {
        let id = self.db.ask(async |conn| definitions::define(conn, loaded.given()).await).await?;
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
        // Boxed: seldom needed, and large.
        Box::pin(self.fetch(name, id)).await
    }

    async fn fetch(&self, name: &str, id: Option<i32>) -> Result<Arc<dyn Workflow>, Failure> {
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
        let compile = self.compile.read().unwrap_or_else(PoisonError::into_inner).clone();
        let workflow = compile(name, &body)?;
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        // Not kept where a reload came between: it would go on with the secrets of before.
        if Arc::ptr_eq(&compile, &self.compile.read().unwrap_or_else(PoisonError::into_inner)) {
            by_id.insert(stored.id, workflow.clone());
        }
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

/// Says where two versions of a workflow have met.
fn tell(given: &[Given<'_>], found: &[Load]) {
    let other = |f: &Load| f.was.filter(|was| *was != f.id);
    for (g, f) in given.iter().zip(found).filter(|(_, f)| f.changed) {
        if let Some(was) = other(f) {
            let (workflow, definition) = (g.workflow, f.id);
            tracing::info!(
                workflow,
                definition,
                was,
                "loaded in place of another version; runs that have begun keep theirs"
            );
        }
    }
    let stay: Vec<&str> =
        given.iter().zip(found).filter(|(g, f)| g.known && other(f).is_some()).map(|(g, _)| g.workflow).collect();
    if !stay.is_empty() {
        tracing::info!(
            workflows = stay.join(", "),
            "another worker has loaded other versions of these; their files have not changed here, so the other versions stay"
        );
    }
}
