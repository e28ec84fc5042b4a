//! Who stands outside: people, and applications.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::program::{Kind, Program};
use super::world::World;
use crate::model::{Failure, Payload, StepKey, StepState, Wait};

/// Answers what waits, sends signals, and asks for a cancel or a pause.
pub async fn people(program: Program, world: World, cancel: Option<Duration>, pause: Option<Duration>) {
    let began = Instant::now();
    let mut to_send: Vec<_> = (program.steps.iter())
        .filter_map(|s| match s.kind {
            Kind::Wait { sent_after, gives } => Some((sent_after, format!("event_{}", s.id), json!({"n": gives}))),
            _ => None,
        })
        .collect();
    let (mut cancel, mut pause, mut unpause) = (cancel, pause, None);
    loop {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.lag(3_000).await;
        let now = began.elapsed();
        to_send.retain(|(after, name, payload)| {
            let later = *after > now;
            if !later {
                world.signal(name, payload);
            }
            later
        });
        let asked: Vec<StepKey> = {
            let t = world.tables();
            let waits = t.rows.values().filter(|r| r.record.state == StepState::Waiting);
            waits.filter(|r| matches!(r.wait, Some(Wait::Approval { .. }))).map(|r| r.record.key.clone()).collect()
        };
        for key in asked {
            let step = program.steps.iter().find(|s| s.id == key.as_str());
            let answer = match step.map(|s| &s.kind) {
                Some(Kind::Approve { says_yes: false }) => Err(Failure::permanent("rejected", "no")),
                _ => Ok(Payload::from_value(&json!({"approved": true}))),
            };
            world.answer(&key, answer);
        }
        let mut t = world.tables();
        if cancel.take_if(|at| *at <= now).is_some() {
            t.cancel = true;
        }
        if pause.take_if(|at| *at <= now).is_some() {
            t.pause = true;
            unpause = Some(now + Duration::from_secs(7));
        }
        if unpause.take_if(|at| *at <= now).is_some() {
            t.pause = false;
        }
        t.requests();
    }
}
