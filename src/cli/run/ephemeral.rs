//! `stepd run --ephemeral`: the engine with a journal in memory. Nothing is kept; where a step needs the database, it fails and
//! says so.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures_util::StreamExt;
use serde_json::{Value, json};
use signal_hook_tokio::Signals;
use uuid::Uuid;

use crate::app::Config;
use crate::app::build;
use crate::definition::Definition;
use crate::engine::{self, Gate, Inbox, Interpreter, MemoryJournal, Outcome, Ports, ServerClock, Transition, Workflow};
use crate::model::{
    Claimed, Failure, Lease, Payload, RunId, SqlRequest, StepKey, StepRecord, StepState, WorkerId, code,
};
use crate::steps::{BoxFuture, Child, ChildRequest, Children, Flow, Sql, SqlEffect, StepCx, StopReason};
use crate::telemetry::failures::Failures;
use crate::telemetry::step_log::StepLogs;

use super::super::follow::{Turning, tell};
use super::super::output::talk;
use super::super::text::{clean, span};
use super::super::{Exit, Global};
use super::{ask, ask_for, can_ask};

/// Between two looks at what the run waits for.
const LOOK: Duration = Duration::from_millis(50);

/// What nobody can send to a run without a database.
const NO_DATABASE: &str = "no_database";

/// stepd's own database, where there is none.
struct NoDatabase;

impl SqlEffect for NoDatabase {
    fn run<'a>(&'a self, _cx: &'a StepCx, _request: SqlRequest) -> BoxFuture<'a, Result<Flow, Failure>> {
        let why =
            "this run has no database (--ephemeral); give the step a `connection:`, or run it without --ephemeral";
        Box::pin(std::future::ready(Err(Failure::permanent(NO_DATABASE, why))))
    }
}

impl Children for NoDatabase {
    fn spawn<'a>(&'a self, _cx: &'a StepCx, _request: ChildRequest) -> BoxFuture<'a, Result<RunId, Failure>> {
        let why = "this run has no database (--ephemeral), and so no other runs; run it without --ephemeral";
        Box::pin(std::future::ready(Err(Failure::permanent(NO_DATABASE, why))))
    }
}

/// One run in memory.
struct Memory {
    id: RunId,
    journal: Arc<MemoryJournal>,
    ports: Arc<Ports>,
    workflow: Arc<dyn Workflow>,
    name: Arc<str>,
    input: Payload,
    session_id: Option<Arc<str>>,
    turning: Turning,
    interrupted: bool,
}

/// Runs a definition to its end.
pub(super) async fn run(
    global: &Global,
    config: &Config,
    (definition, input): (Definition, Payload),
    session_id: Option<String>,
    mut signals: Signals,
) -> anyhow::Result<Exit> {
    talk("ephemeral: nothing of this run is kept, and nothing of it survives this process");
    let journal = Arc::new(MemoryJournal::default());
    let registry = build::registry(config)?;
    let registry = registry.with(build::connections(config, Sql::new(NoDatabase))?).with(Child::new(NoDatabase));
    #[expect(clippy::disallowed_methods, reason = "without a database there is no other clock")]
    let clock = ServerClock::new(Utc::now());
    let ports = Ports {
        journal: journal.clone(),
        registry: Arc::new(registry),
        gate: Gate::always_open(),
        clock: Arc::new(clock),
        max_output: config.max_output_bytes,
        logs: StepLogs::new(0),
        failures: Failures::default(),
        metrics: Arc::default(),
        traces: None,
    };
    let name = definition.name.clone();
    let mut memory = Memory {
        id: RunId(Uuid::now_v7()),
        journal,
        ports: Arc::new(ports),
        workflow: Arc::new(Interpreter::new(Arc::new(definition), build::host(config))),
        name,
        input,
        session_id: session_id.map(Arc::from),
        turning: Turning::new(),
        interrupted: false,
    };
    let (state, output, error) = memory.go_on(&mut signals).await;
    let (id, interrupted) = (memory.id.to_string(), memory.interrupted);
    drop(memory);
    let step = error.as_ref().and_then(|e| Some(e.details.as_ref()?.get("step")?.as_str()?.to_owned()));
    let error = error.map(|e| Payload::from_serialize(&e)).transpose()?;
    let exit = tell(
        global,
        &id,
        state,
        output.as_ref().map(Payload::as_str),
        error.as_ref().map(Payload::as_str),
        step.as_deref(),
    )?;
    Ok(if interrupted { Exit::Interrupted } else { exit })
}

impl Memory {
    /// Claim after claim, as a worker and the sweep would do it: the state, the output, the failure.
    async fn go_on(&mut self, signals: &mut Signals) -> (&'static str, Option<Payload>, Option<Failure>) {
        let started_at = self.ports.clock.now();
        for epoch in 1.. {
            let inbox = Arc::new(Inbox::default());
            let claimed = self.claimed(epoch, started_at);
            let going = engine::run(Box::new(claimed), Ok(self.workflow.clone()), self.ports.clone(), inbox.clone());
            tokio::pin!(going);
            let mut handled = Vec::new();
            let outcome = loop {
                tokio::select! {
                    outcome = &mut going => break outcome,
                    () = self.look(&inbox, &mut handled) => {}
                    Some(_) = signals.next() => {
                        if self.interrupted {
                            std::process::exit(Exit::Interrupted as i32);
                        }
                        self.interrupted = true;
                        self.turning.line("stopping; once more Ctrl-C ends at once");
                        inbox.stop(StopReason::Cancelled);
                    }
                }
            };
            match (outcome, self.journal.run(self.id).transitions.pop()) {
                (Outcome::Done, Some(Transition::Complete { output, .. })) => return ("completed", Some(output), None),
                (Outcome::Cancelled, _) => return ("cancelled", None, None),
                (Outcome::Resuming, Some(Transition::Resume { after, failure })) => {
                    let pause = span(chrono::TimeDelta::from_std(after).unwrap_or_default());
                    self.turning.line(&format!("failed, resumes in {pause}: {}", clean(&failure.to_string())));
                    tokio::select! {
                        () = tokio::time::sleep(after) => {}
                        Some(_) = signals.next() => {
                            self.interrupted = true;
                            return ("cancelled", None, None);
                        }
                    }
                }
                (_, Some(Transition::Fail { failure })) => return ("failed", None, Some(failure)),
                (outcome, _) => {
                    let bug = format!("the run ended without a result ({outcome:?})");
                    return ("failed", None, Some(Failure::permanent(code::INTERNAL, bug)));
                }
            }
        }
        ("failed", None, None)
    }

    fn claimed(&self, epoch: i32, started_at: chrono::DateTime<Utc>) -> Claimed {
        Claimed {
            lease: Lease::new(self.id, WorkerId(Uuid::nil()), epoch),
            workflow: self.name.clone(),
            definition: None,
            input: Some(self.input.clone()),
            queue: "ephemeral".into(),
            scheduled_for: started_at,
            started_at,
            resumes: i16::try_from(epoch - 1).unwrap_or(i16::MAX),
            crashes: 0,
            streak: 0,
            taken: false,
            after_failure: false,
            traceparent: None,
            session_id: self.session_id.clone(),
            is_child: false,
            keeps_key: false,
        }
    }

    /// One look: what is under way, and what waits for an answer that only this terminal can give.
    async fn look(&self, inbox: &Inbox, handled: &mut Vec<StepKey>) {
        tokio::time::sleep(LOOK).await;
        let waiting: Vec<StepKey> = inbox.waiting().into_iter().filter(|k| !handled.contains(k)).collect();
        if waiting.is_empty() && !self.turning.is_shown() {
            return;
        }
        let steps = self.journal.run(self.id).steps;
        let done = steps.values().filter(|s| s.checkpoint).count();
        let mut under_way: Vec<&StepRecord> =
            steps.values().filter(|s| matches!(s.state, StepState::Running | StepState::Waiting)).collect();
        under_way.sort_by_key(|s| s.seq);
        let names: Vec<String> = under_way.iter().take(5).map(|s| format!("{} {}", s.key, s.state.as_str())).collect();
        self.turning.says(&format!("{} · {done} steps done", names.join(", ")));
        for key in waiting {
            let Some(decision) = steps.get(&key).and_then(|s| s.decision.as_ref()?.value().ok()) else { continue };
            handled.push(key.clone());
            if let Some(answer) = self.answer(&key, &decision).await {
                inbox.answer(key, answer);
            }
        }
    }

    /// The answer to a wait; `None` where time alone ends it.
    async fn answer(&self, key: &StepKey, decision: &Value) -> Option<Result<Payload, Failure>> {
        let word = |name: &str| decision.get(name).and_then(Value::as_str).unwrap_or_default();
        match word("wait") {
            "approval" if !can_ask() => Some(Err(Failure::permanent(
                NO_DATABASE,
                format!(
                    "step `{key}` asks for an approval, and there is no terminal to ask on; run it on one, or without --ephemeral"
                ),
            ))),
            "approval" if decision.get("schema").is_some() => {
                Some(match ask_for(&self.turning, key.as_str(), word("prompt"), &decision["schema"]).await {
                    Ok(Some(answer)) => Ok(Payload::from_value(&json!({"approved": true, "answer": answer}))),
                    Ok(None) => Err(Failure::permanent(code::REJECTED, "rejected on the terminal")),
                    Err(e) => Err(Failure::permanent(code::REJECTED, format!("{e:#}"))),
                })
            }
            "approval" => Some(match ask(&self.turning, key.as_str(), Some(word("prompt"))).await {
                Ok((true, _)) => Ok(Payload::from_value(
                    &json!({"approved": true, "by": "terminal", "note": null, "at": self.ports.clock.now()}),
                )),
                Ok((false, _)) => Err(Failure::permanent(code::REJECTED, "rejected on the terminal")),
                Err(e) => Err(Failure::permanent(code::REJECTED, format!("{e:#}"))),
            }),
            "event" => Some(Err(Failure::permanent(
                NO_DATABASE,
                format!(
                    "step `{key}` waits for the event `{}`, which cannot reach a run without a database; run it without --ephemeral",
                    word("event")
                ),
            ))),
            _ => None,
        }
    }
}
