//! From a run's rows to its spans, part by part.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::model::{Failure, RunState, StepState, TracedCalls, TracedRun, TracedStep};
use crate::telemetry::redact;

use super::attempts::{Attempt, How, Story};
use super::attributes::{self, Sort};
use super::ids::{self, Place, SpanId};
use super::otlp::{self, Code, Event, KeyValue, Kind, Link, Span, Status, attribute};
use super::parts::{Part, PartEnd};

/// Whose words a target reads beside the conventions'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Vendor {
    #[default]
    Plain,
    LangSmith,
    Langfuse,
}

/// How spans are told to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    /// In whose words.
    pub vendor: Vendor,
    /// With inputs and outputs.
    pub content: bool,
    /// The longest value; what is longer is cut, with a mark.
    pub longest: usize,
}

/// A step that others are made of: its key, and from when to when.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Frame {
    pub key: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Makes the spans of one part of a run.
pub struct Maker<'a> {
    style: &'a Style,
    run: &'a TracedRun,
    part: &'a Part,
    story: &'a Story,
    /// The steps that others are made of, as far as they reach into this part.
    frames: HashSet<&'a str>,
    everywhere: Vec<KeyValue>,
    /// The tries that have a span, by step and number.
    tries: HashMap<(String, u32), Vec<(i32, SpanId)>>,
    /// The steps that have one.
    told: BTreeSet<String>,
}

impl<'a> Maker<'a> {
    /// For one part.
    #[must_use]
    pub fn new(style: &'a Style, run: &'a TracedRun, part: &'a Part, story: &'a Story, frames: &'a [Frame]) -> Self {
        let here = frames.iter().filter(|f| part.touches(f.started_at, f.ended_at)).map(|f| f.key.as_str()).collect();
        let everywhere = attributes::everywhere(style, run);
        Self { style, run, part, story, frames: here, everywhere, tries: HashMap::new(), told: BTreeSet::new() }
    }

    fn span(&self, place: Place<'_>, parent: Option<SpanId>, name: String) -> Span {
        Span {
            trace_id: self.run.id.as_bytes().to_vec(),
            span_id: place.id(self.run.id).to_vec(),
            parent_span_id: parent.map(|p| p.to_vec()).unwrap_or_default(),
            name,
            kind: Kind::Internal.into(),
            attributes: self.everywhere.clone(),
            // Sampled.
            flags: 1,
            ..Span::default()
        }
    }

    /// Nothing that leaves has a secret in it, or is longer than the target takes.
    fn finished(&self, mut span: Span, start: DateTime<Utc>, end: DateTime<Utc>) -> Span {
        (span.start_time_unix_nano, span.end_time_unix_nano) = (nanos(start), nanos(end.max(start)));
        let longest = self.style.longest;
        clean(&mut span.name, 256);
        if let Some(status) = &mut span.status {
            clean(&mut status.message, longest);
        }
        let of_events = span.events.iter_mut().flat_map(|e| &mut e.attributes);
        let of_links = span.links.iter_mut().flat_map(|l| &mut l.attributes);
        for attribute in span.attributes.iter_mut().chain(of_events).chain(of_links) {
            clean(&mut attribute.key, 256);
            if let Some(value) = &mut attribute.value {
                clean_value(value, longest);
            }
        }
        span
    }

    /// The part's own span: the parent of all others.
    #[must_use]
    pub fn root(&self) -> Span {
        let Self { run, part, .. } = self;
        let mut span = self.span(Place::Root(part.n), None, format!("invoke_workflow {}", run.workflow));
        let begun = run.started_at.unwrap_or(run.created_at);
        let start = part.from.unwrap_or_else(|| run.first_at.map_or(begun, |first| first.min(begun)));
        let (end, state, failure) = match &part.end {
            PartEnd::Ended => (run.last_at.map_or(part.to, |l| l.max(part.to)), run.state.as_str(), run.error.as_ref()),
            PartEnd::Retried(failure) => (part.to, RunState::Failed.as_str(), failure.as_ref()),
            PartEnd::Waits => (part.to, RunState::Waiting.as_str(), None),
        };
        let out = &mut span.attributes;
        attributes::sort(self.style, Sort::Chain, out);
        out.extend([
            attribute("gen_ai.operation.name", "invoke_workflow"),
            attribute("gen_ai.workflow.name", run.workflow.as_str()),
            attribute("stepd.run.id", run.id.to_string()),
            attribute("stepd.run.state", state),
            attribute("stepd.queue", run.queue.as_str()),
            attribute("stepd.priority", run.priority),
            attribute("stepd.resumes", run.resumes),
            attribute("stepd.crashes", run.crashes),
            attribute("stepd.part", part.n),
            attribute("stepd.steps", run.steps),
        ]);
        let waited = run.started_at.map(|at| (at - run.created_at).num_milliseconds().max(0));
        out.extend(waited.map(|ms| attribute("stepd.queue.wait_ms", ms)));
        let labels = run.labels.as_object().into_iter().flatten();
        out.extend(labels.map(|(name, value)| attribute(format!("stepd.label.{name}"), value.clone())));
        let (first, last) = (part.n == 0, part.end == PartEnd::Ended);
        let (input, output) = (run.input.as_deref().filter(|_| first), run.output.as_deref().filter(|_| last));
        attributes::contents(self.style, input, output, out);
        self.link_outwards(&mut span);
        self.failed(&mut span, failure, end);
        self.finished(span, start, end)
    }

    /// The part before, the enqueuer, the run that this one is a child of.
    fn link_outwards(&self, span: &mut Span) {
        let Self { run, part, .. } = self;
        if let Some(before) = part.n.checked_sub(1) {
            span.links.push(link(run.id, Place::Root(before).id(run.id), "part_before"));
            return;
        }
        if let Some((parent, key)) = &run.parent {
            span.links.push(link(*parent, Place::Step { key, part: 0 }.id(*parent), "parent"));
        }
        match run.traceparent.as_deref().map(|text| (text, ids::parsed(text))) {
            None => {}
            Some((_, Some((trace, enqueuer)))) => {
                span.links.push(link(Uuid::from_bytes(trace), enqueuer, "enqueued_by"));
            }
            Some((text, None)) => span.attributes.push(attribute("stepd.traceparent.ignored", text)),
        }
    }

    /// As [`Maker::step`], but not of the step that the run's end has brought along: that one's own row says less.
    #[must_use]
    pub fn told_once(&mut self, step: &TracedStep) -> Vec<Span> {
        let rode_along = self.run.last.as_ref().is_some_and(|last| last.key == step.key);
        if rode_along { Vec::new() } else { self.step(step) }
    }

    /// A step's span, as far as it lies in this part, with those of its tries.
    #[must_use]
    pub fn step(&mut self, step: &TracedStep) -> Vec<Span> {
        if !self.part.touches(step.started_at, step.ended_at) {
            return Vec::new();
        }
        let over = step.ended_at.filter(|end| self.part.holds(*end));
        let start = self.part.from.map_or(step.started_at, |from| from.max(step.started_at));
        let end = over.unwrap_or(self.part.to);
        let tries = self.attempts(&step.key, Some(step));
        let name = match step.kind.as_str() {
            "agent" => format!("invoke_agent {}", step.key),
            _ => step.key.clone(),
        };
        let mut span = self.span(self.place(&step.key), Some(self.parent(&step.key)), name);
        self.describe(step, over.is_some(), &mut span);
        if step.state == StepState::Skipped {
            return vec![self.finished(span, start, end)];
        }
        let failure = step.error.as_ref().filter(|_| over.is_some() && step.state == StepState::Failed);
        self.failed(&mut span, failure, end);
        self.told.insert(step.key.clone());
        let mut spans = vec![self.finished(span, start, end)];
        if !is_frame(&step.kind) {
            spans.extend(tries.iter().map(|attempt| self.attempt(step, attempt)));
        }
        spans
    }

    fn describe(&self, step: &TracedStep, over: bool, span: &mut Span) {
        let out = &mut span.attributes;
        let agent = step.kind == "agent";
        attributes::sort(self.style, if agent { Sort::Agent } else { Sort::Chain }, out);
        let state = match (over, step.state) {
            (false, StepState::Running | StepState::Waiting) => step.state.as_str(),
            // It ended in a later part.
            (false, _) => "unfinished",
            (true, state) => state.as_str(),
        };
        out.extend([
            attribute("stepd.step.key", step.key.as_str()),
            attribute("stepd.step.kind", step.kind.as_str()),
            attribute("stepd.step.state", state),
            attribute("stepd.step.attempts", step.attempts),
        ]);
        out.extend(step.label.as_deref().map(|label| attribute("stepd.step.label", label)));
        if agent {
            let name = step.label.as_deref().unwrap_or(&step.key);
            out.extend([attribute("gen_ai.operation.name", "invoke_agent"), attribute("gen_ai.agent.name", name)]);
        }
        if over {
            attributes::contents(self.style, None, step.output.as_deref(), out);
            if let Some(used) = &step.usage {
                attributes::usage(used, out);
            }
        }
        if let Some((child, workflow)) = &step.child {
            out.push(attribute("stepd.child.run.id", child.to_string()));
            if let Some(workflow) = workflow {
                out.push(attribute("stepd.child.workflow", workflow.as_str()));
                if step.key.contains(".tool[") {
                    out.push(attribute("gen_ai.operation.name", "execute_tool"));
                    out.push(attribute("gen_ai.tool.name", workflow.as_str()));
                }
            }
            span.links.push(link(*child, Place::Root(0).id(*child), "child"));
        }
    }

    /// The tries of a step that were over in this part.
    fn attempts(&mut self, key: &str, step: Option<&TracedStep>) -> Vec<Attempt> {
        let mut tries = self.story.attempts(key, step);
        tries.retain(|a| self.part.holds(a.end));
        for a in &tries {
            let id = Place::Attempt { key, attempt: a.number, epoch: a.epoch }.id(self.run.id);
            self.tries.entry((key.to_owned(), a.number)).or_default().push((a.epoch, id));
        }
        tries
    }

    fn attempt(&self, step: &TracedStep, attempt: &Attempt) -> Span {
        let Attempt { number, epoch, start, end, how, usage, repeats } = attempt;
        let place = |epoch| Place::Attempt { key: &step.key, attempt: *number, epoch };
        let name = format!("{} (attempt {number})", step.key);
        let mut span = self.span(place(*epoch), Some(self.place(&step.key).id(self.run.id)), name);
        attributes::sort(self.style, Sort::Chain, &mut span.attributes);
        let out = &mut span.attributes;
        let state = match how {
            How::Completed => "completed",
            How::Failed(_) => "failed",
            How::Crashed(_) => "crashed",
            How::Cancelled => "cancelled",
        };
        out.extend([
            attribute("stepd.step.key", step.key.as_str()),
            attribute("stepd.step.kind", step.kind.as_str()),
            attribute("stepd.attempt", *number),
            attribute("stepd.attempt.state", state),
            attribute("stepd.epoch", *epoch),
        ]);
        let worker = self.story.worker(*epoch);
        out.extend(worker.map(|worker| attribute("stepd.worker.id", worker.to_string())));
        if let Some(used) = usage {
            attributes::usage(used, out);
        }
        if let Some(dead) = repeats {
            let mut link = link(self.run.id, place(*dead).id(self.run.id), "resumes");
            let said = |name: &str, worker: Option<Uuid>| worker.map(|w| attribute(name, w.to_string()));
            link.attributes.extend(said("stepd.worker.from", self.story.worker(*dead)));
            link.attributes.extend(said("stepd.worker.to", worker));
            span.links.push(link);
        }
        match how {
            How::Failed(failure) => self.failed(&mut span, Some(failure), *end),
            How::Crashed(evidence) => self.failed(&mut span, Some(&death(evidence)), *end),
            How::Completed | How::Cancelled => {}
        }
        self.finished(span, *start, *end)
    }

    /// The tries of steps whose rows tell of a later part, or that have none: each under a step made for them.
    #[must_use]
    pub fn rest(&mut self) -> Vec<Span> {
        let story = self.story;
        let keys: BTreeSet<&str> = story.keys().filter(|key| !self.told.contains(*key)).collect();
        let mut spans = Vec::new();
        for key in keys {
            let tries = self.attempts(key, None);
            let (Some(first), Some(last)) = (tries.first(), tries.last()) else { continue };
            let (failure, state) = match &last.how {
                How::Failed(failure) => (Some(failure.clone()), StepState::Failed),
                How::Crashed(evidence) => (Some(death(evidence)), StepState::Failed),
                How::Completed | How::Cancelled => (None, StepState::Cancelled),
            };
            let step = TracedStep {
                run: self.run.id,
                seq: 0,
                key: key.to_owned(),
                label: None,
                kind: "unknown".to_owned(),
                state,
                attempts: last.number,
                epoch: last.epoch,
                started_at: first.start,
                ended_at: Some(last.end),
                output: None,
                error: failure,
                usage: None,
                child: None,
            };
            let mut span = self.span(self.place(key), Some(self.parent(key)), key.to_owned());
            self.describe(&step, true, &mut span);
            self.failed(&mut span, step.error.as_ref(), last.end);
            spans.push(self.finished(span, first.start, last.end));
            spans.extend(tries.iter().map(|attempt| self.attempt(&step, attempt)));
        }
        spans
    }

    /// The calls that one attempt has made in this part.
    #[must_use]
    pub fn calls(&self, made: &TracedCalls) -> Vec<Span> {
        let mine = made.calls.iter().filter(|call| self.part.holds(call.ended_at));
        // The try that saw the end of what it began: later claims may have gone on with it.
        let tries = self.tries.get(&(made.key.clone(), made.attempt)).map(Vec::as_slice).unwrap_or_default();
        let over = tries.iter().filter(|(epoch, _)| *epoch >= made.epoch).min_by_key(|(epoch, _)| *epoch);
        let parent = over.map_or_else(|| self.place(&made.key).id(self.run.id), |(_, id)| *id);
        mine.map(|call| {
            let place = Place::Call { epoch: made.epoch, n: call.n };
            let mut span = self.span(place, Some(parent), call.name.clone());
            if call.client {
                span.kind = Kind::Client.into();
            }
            attributes::call(self.style, call, &mut span.attributes);
            let failure = call.error.as_ref().map(|(code, message)| Failure::transient(code.clone(), message.clone()));
            self.failed(&mut span, failure.as_ref(), call.ended_at);
            self.finished(span, call.started_at, call.ended_at)
        })
        .collect()
    }

    fn failed(&self, span: &mut Span, failure: Option<&Failure>, at: DateTime<Utc>) {
        let Some(failure) = failure else { return };
        if !span.attributes.iter().any(|a| a.key == "error.type") {
            span.attributes.push(attribute("error.type", &*failure.code));
        }
        span.status = Some(Status { message: failure.message.clone(), code: Code::Error.into() });
        let mut attributes =
            vec![attribute("exception.type", &*failure.code), attribute("exception.message", failure.message.as_str())];
        // What a server or a program has said is content.
        if let Some(details) = failure.details.as_deref().filter(|_| self.style.content) {
            attributes.push(attribute("exception.stacktrace", details.to_string()));
        }
        span.events.push(Event { time_unix_nano: nanos(at), name: "exception".to_owned(), attributes });
    }

    fn place<'k>(&self, key: &'k str) -> Place<'k> {
        Place::Step { key, part: self.part.n }
    }

    /// The nearest step that this one is a part of, or the root.
    fn parent(&self, key: &str) -> SpanId {
        let above = key.rmatch_indices(['.', '[']).map(|(at, _)| &key[..at]).find(|above| self.frames.contains(above));
        above.map_or(Place::Root(self.part.n), |above| self.place(above)).id(self.run.id)
    }
}

/// Is a step of this kind made of other steps?
fn is_frame(kind: &str) -> bool {
    matches!(kind, "map" | "repeat" | "switch" | "agent" | "end")
}

fn death(evidence: &Value) -> Failure {
    let word = |name: &str| evidence[name].as_str().unwrap_or("unknown").to_owned();
    let message = format!("the worker {} on {} died during this attempt", word("worker"), word("host"));
    let facts =
        json!({"found_by": evidence["found_by"], "last_beat_at": evidence["last_beat_at"], "pid": evidence["pid"]});
    Failure::transient("crashed", message).with_details(facts)
}

fn link(trace: Uuid, span: SpanId, what: &str) -> Link {
    Link {
        trace_id: trace.as_bytes().to_vec(),
        span_id: span.to_vec(),
        attributes: vec![attribute("stepd.link", what)],
    }
}

fn nanos(at: DateTime<Utc>) -> u64 {
    // chrono's own goes no further than the year 2262, and signed.
    u64::try_from(at.timestamp())
        .map_or(0, |s| s.saturating_mul(1_000_000_000).saturating_add(at.timestamp_subsec_nanos().into()))
}

fn clean_value(value: &mut otlp::AnyValue, longest: usize) {
    match &mut value.value {
        Some(otlp::Any::Text(text)) => clean(text, longest),
        Some(otlp::Any::List(list)) => list.values.iter_mut().for_each(|value| clean_value(value, longest)),
        _ => {}
    }
}

/// Without secrets, and no longer than allowed. Hidden first: half of a secret would not be known any more.
fn clean(text: &mut String, longest: usize) {
    if let std::borrow::Cow::Owned(hidden) = redact::hide(text) {
        *text = hidden;
    }
    if text.len() > longest {
        let all = text.len();
        let mark = format!("… (cut: {all} bytes)");
        let mut end = longest.saturating_sub(mark.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(&mark);
    }
}
