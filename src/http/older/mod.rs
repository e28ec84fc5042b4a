//! The endpoints of the older system (AFU-9), with their exact shapes: a projection of the same rows that `/api/v1` shows.
//!
//! An execution is a run, and has its id; a workflow's id is its name. Of a document's run the input of each step and the context are
//! worked out anew from what is recorded (`definition::afu9::replay`); other runs have no variables, and their steps no recorded input.
//! What it says of a run: `shapes`; how a run's state is called there: [`shapes::status`].

mod execute;
mod executions;
mod locks;
mod refused;
mod servers;
mod shapes;
mod steer;
mod steps;
mod told;
mod workflows;

use std::sync::Arc;

use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::steps::Servers;

use super::Site;
use servers::Asked;

/// Requests that wait for the ends of their documents, at the most: each looks at the database again and again.
const WAITING: usize = 256;

/// What these endpoints need, beside the database.
#[derive(Clone)]
pub struct Older {
    /// May a request bring a document along?
    pub documents: bool,
    /// The servers whose health is told.
    pub servers: Arc<Servers>,
    /// What they have answered last.
    asked: Asked,
    /// Places for requests that wait.
    waiting: Arc<Semaphore>,
}

impl Default for Older {
    fn default() -> Self {
        Self::new(false, Arc::default())
    }
}

impl Older {
    /// With these servers, and with documents that requests bring along or without.
    #[must_use]
    pub fn new(documents: bool, servers: Arc<Servers>) -> Self {
        Self { documents, servers, asked: Asked::default(), waiting: Arc::new(Semaphore::new(WAITING)) }
    }
}

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new()
        .routes(routes!(execute::execute))
        .routes(routes!(executions::execution))
        .routes(routes!(executions::row))
        .routes(routes!(executions::recent))
        .routes(routes!(executions::paused))
        .routes(routes!(steps::one))
        .routes(routes!(locks::all))
        .routes(routes!(steer::pause))
        .routes(routes!(steer::retry))
        .routes(routes!(steer::resume))
        .routes(routes!(workflows::all))
        .routes(routes!(workflows::one))
        .routes(routes!(workflows::history))
        .routes(routes!(workflows::trigger))
        .routes(routes!(servers::health))
        // What that system was to have, under the paths that it had planned: `/api/v1` has them, and describes them.
        .route("/executions/{id}/events", super::stream::of_run())
        .route("/executions/{id}/ws", super::socket::of_run())
        .route("/executions/{id}/timeline", super::timeline::of_run())
        .route("/stats", super::stats::of_all())
}
