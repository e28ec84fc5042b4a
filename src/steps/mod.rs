//! The kinds of step: one file a kind, all behind one trait.

mod breaker;
mod calls;
mod child;
mod http;
mod llm;
mod mcp;
mod meter;
mod params;
mod plain;
mod process;
mod short;
mod sql;
mod step;
#[cfg(test)]
mod testing;

use std::sync::Arc;

pub use breaker::Circuit;
pub use calls::{Calling, Calls};
pub use child::{CHILD, Child, ChildRequest, Children};
pub use http::{Allowed, Http, HttpOptions, InvalidTarget};
pub(crate) use llm::unfenced;
pub use llm::{Llm, ModelProfile, Models, Structured};
pub use mcp::{Mcp, ServerOptions, Servers, Tool};
pub use meter::{Meter, over as over_budget};
pub use plain::{Approve, Set, Sleep, WaitFor};
pub use process::{Exec, ProcessOptions, Run, guard_main, kill_marked_on_end_of_input, kinds as process_kinds};
pub use sql::{AtLeastOnce, Sql, SqlEffect};
pub use step::{
    After, BoxFuture, Flow, LogLevel, Question, Registry, Reply, Secrets, Shape, Step, StepCx, StepLog, StepOutput,
    StopReason, StopSignal, StopTrigger, log_here, stop_pair,
};

/// How the kinds do their work.
#[derive(Clone, Default)]
pub struct StepOptions {
    /// For `run` and `exec`.
    pub process: ProcessOptions,
    /// For `http`.
    pub http: HttpOptions,
    /// For `mcp`, and the tools of an `agent`.
    pub servers: Arc<Servers>,
    /// For `llm` and `agent`.
    pub models: Arc<Models>,
}

/// All kinds that need nothing but their options. `sql` and `workflow` need a database: whoever has one adds them.
#[must_use]
pub fn standard_registry(options: StepOptions) -> Registry {
    let (run, exec) = process_kinds(options.process);
    let http = Http::new(options.http);
    let (mcp, llm) = (Mcp::new(options.servers, run.launcher()), Llm::new(options.models));
    let plain = Registry::default().with(Set).with(Sleep).with(WaitFor).with(Approve);
    plain.with(run).with(exec).with(http).with(mcp).with(llm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_kinds_are_all_but_those_that_need_a_database() {
        let names = standard_registry(StepOptions::default()).names();
        assert_eq!(names, ["approve", "exec", "http", "llm", "mcp", "run", "set", "sleep", "wait"]);
    }
}
