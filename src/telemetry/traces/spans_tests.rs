use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::model::{Call, RunState, StepState, TracedCalls, TracedEvent, TracedRun, TracedStep};

use super::attempts::Story;
use super::ids::Place;
use super::otlp::{Any, Kind, Span};
use super::parts::parts;
use super::spans::{Frame, Maker, Style, Vendor};

pub fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

pub fn event(kind: &str, of: Option<(&str, u32)>, epoch: i32, second: i64, data: Value) -> TracedEvent {
    let (key, attempt) = of.map(|(key, attempt)| (key.to_owned(), attempt)).unzip();
    TracedEvent { at: at(second), kind: kind.to_owned(), key, attempt, epoch: Some(epoch), data }
}

pub fn run() -> TracedRun {
    TracedRun {
        id: Uuid::from_u128(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        workflow: "shop".into(),
        state: RunState::Completed,
        queue: "default".into(),
        priority: 5,
        epoch: 3,
        resumes: 0,
        crashes: 1,
        created_at: at(0),
        started_at: Some(at(1)),
        ended_at: Some(at(20)),
        first_at: Some(at(1)),
        last_at: Some(at(19)),
        steps: 1,
        worker: Some(Uuid::from_u128(2)),
        session: Some("s-1".into()),
        labels: json!({"customer": "42", "queue": "not the run's"}),
        input: Some("{\"a\":1}".into()),
        output: Some("2".into()),
        error: None,
        traceparent: None,
        parent: None,
        last: None,
    }
}

pub fn step(key: &str, kind: &str) -> TracedStep {
    TracedStep {
        run: run().id,
        seq: 1,
        key: key.to_owned(),
        label: None,
        kind: kind.to_owned(),
        state: StepState::Completed,
        attempts: 1,
        epoch: 3,
        started_at: at(1),
        ended_at: Some(at(10)),
        output: Some("\"out\"".into()),
        error: None,
        usage: None,
        child: None,
    }
}

fn style(vendor: Vendor, content: bool) -> Style {
    Style { vendor, content, longest: 200 }
}

fn text<'s>(span: &'s Span, name: &str) -> Option<&'s str> {
    let value = span.attributes.iter().find(|a| a.key == name)?.value.as_ref()?;
    match value.value.as_ref()? {
        Any::Text(text) => Some(text),
        _ => None,
    }
}

#[test]
fn what_is_part_of_a_map_stands_below_it_and_all_else_below_the_root() {
    let (run, style) = (run(), style(Vendor::Plain, false));
    let part = parts(&run, &[], &[]).remove(0);
    let story = Story::of(&run, Vec::new());
    let frame = |key: &str| Frame { key: key.into(), started_at: at(1), ended_at: Some(at(10)) };
    let frames = [frame("docs"), frame("docs[1].pages")];
    let mut maker = Maker::new(&style, &run, &part, &story, &frames);
    let root = maker.root();
    let mut parent = |key: &str| maker.step(&step(key, "http"))[0].parent_span_id.clone();
    let of = |key| Place::Step { key, part: 0 }.id(run.id).to_vec();
    assert_eq!(parent("charge"), root.span_id);
    assert_eq!(parent("docs[1].text"), of("docs"));
    assert_eq!(parent("docs[1].pages[2].text"), of("docs[1].pages"));
    assert_eq!(parent("other[1].text"), root.span_id);
    assert!(root.parent_span_id.is_empty() && root.trace_id == run.id.as_bytes());
}

#[test]
fn a_long_value_is_cut_with_a_mark_and_content_is_only_told_where_it_is_wanted() {
    let mut run = run();
    run.input = Some("ä".repeat(1_000));
    let part = parts(&run, &[], &[]).remove(0);
    let story = Story::of(&run, Vec::new());
    for (vendor, name) in [(Vendor::Plain, "input.value"), (Vendor::Langfuse, "langfuse.observation.input")] {
        let (loud, quiet) = (style(vendor, true), style(vendor, false));
        let root = Maker::new(&loud, &run, &part, &story, &[]).root();
        let input = text(&root, name).unwrap();
        assert!(input.len() <= 200 && input.ends_with("… (cut: 2000 bytes)"), "{input}");
        let root = Maker::new(&quiet, &run, &part, &story, &[]).root();
        assert_eq!(text(&root, name), None);
    }
}

#[test]
fn a_call_stands_below_the_attempt_that_saw_its_end() {
    let (run, style) = (run(), style(Vendor::Langfuse, false));
    let part = parts(&run, &[], &[]).remove(0);
    let story = Story::of(&run, Vec::new());
    let mut maker = Maker::new(&style, &run, &part, &story, &[]);
    let spans = maker.step(&step("a", "llm"));
    let attributes = json!({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 10, "gen_ai.usage.cost": 0.5});
    let attributes = attributes.as_object().cloned().unwrap();
    let call = Call {
        n: 1,
        name: "chat m".into(),
        client: true,
        started_at: at(2),
        ended_at: at(3),
        attributes,
        ..Call::default()
    };
    // Begun by the claim before the one that has ended it.
    let made = TracedCalls { key: "a".into(), attempt: 1, epoch: 2, calls: vec![call] };
    let call = maker.calls(&made).remove(0);
    assert_eq!(call.parent_span_id, spans[1].span_id);
    assert_eq!(call.kind, i32::from(Kind::Client));
    assert_eq!(text(&call, "langfuse.observation.type"), Some("generation"));
    assert_eq!(text(&call, "langfuse.observation.cost_details"), Some("{\"total\":0.5}"));
    assert_eq!(text(&call, "langfuse.trace.metadata.customer"), Some("42"), "on every span");
    for name in ["session.id", "langfuse.session.id", "gen_ai.conversation.id"] {
        assert_eq!(text(&call, name), Some("s-1"), "on every span");
    }
    let names: std::collections::BTreeSet<_> = call.attributes.iter().map(|a| &a.key).collect();
    assert_eq!(names.len(), call.attributes.len(), "no attribute twice");
}

#[test]
fn a_context_that_is_none_is_ignored_with_a_note_and_a_good_one_is_linked() {
    let mut run = run();
    let style = style(Vendor::Plain, false);
    let story = Story::of(&run, Vec::new());
    run.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let part = parts(&run, &[], &[]).remove(0);
    let root = Maker::new(&style, &run, &part, &story, &[]).root();
    assert_eq!(root.links[0].span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    run.traceparent = Some("nonsense".into());
    let root = Maker::new(&style, &run, &part, &story, &[]).root();
    assert_eq!((root.links.len(), text(&root, "stepd.traceparent.ignored")), (0, Some("nonsense")));
}

#[test]
fn tries_whose_step_was_taken_up_again_later_keep_a_step_of_their_own() {
    let mut run = run();
    run.ended_at = Some(at(100));
    let failure = json!({"class": "permanent", "code": "exit_1", "message": "no"});
    let events = vec![
        event(
            "attempt_failed",
            Some(("a", 1)),
            1,
            5,
            json!({"started_at": at(1), "ended_at": at(5), "failure": failure}),
        ),
        event("retried", None, 1, 60, json!({"from": "failed", "ended_at": at(6), "failure": failure})),
    ];
    let both = parts(&run, &events, &[]);
    let (story, style) = (Story::of(&run, events), style(Vendor::Plain, false));
    // As the row stands after the second life.
    let row = TracedStep { started_at: at(61), ended_at: Some(at(70)), ..step("a", "run") };
    let mut first = Maker::new(&style, &run, &both[0], &story, &[]);
    assert!(first.step(&row).is_empty());
    let rest = first.rest();
    assert_eq!(rest.len(), 2);
    assert_eq!(
        (rest[1].parent_span_id.clone(), rest[0].parent_span_id.clone()),
        (rest[0].span_id.clone(), first.root().span_id)
    );
    assert_eq!(rest[0].status.as_ref().unwrap().message, "no");
    let mut second = Maker::new(&style, &run, &both[1], &story, &[]);
    let spans = second.step(&row);
    assert_eq!((spans.len(), second.rest().len()), (2, 0));
    assert_ne!(spans[0].span_id, rest[0].span_id);
    let root = second.root();
    assert_eq!(root.links[0].span_id, first.root().span_id);
}
