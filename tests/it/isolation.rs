//! The transitions against each other: sessions that hold their transactions open between their statements, in every order in which
//! each keeps its own. No golden outputs: whatever the order, what [`judge`] says must hold.
//!
//! `STEPD_TEST_SPEC=text` plays only the specs whose description contains it.

mod judge;
mod op;
mod play;
mod scene;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use op::{A, B, C, Op};
use play::{House, Part, Spec};
use scene::Scene;

/// Databases at once.
const HOUSES: usize = 4;

/// What can be done to a run that stands so; each by itself, and held open until its session commits.
fn acts(scene: Scene) -> Vec<Op> {
    use Op::*;
    match scene {
        Scene::Fresh => {
            vec![Claim(B), Claim(C), Admit, Cancel, Pause, Signal, Emit, PauseQueue, LimitQueue, Repair, Enqueue]
        }
        Scene::Back => vec![Claim(B), Claim(C), Admit, Cancel, Pause, PauseQueue, LimitQueue, Repair, Complete],
        Scene::Solo => vec![ClaimSolo(B), ClaimSolo(C), Reserve(B), Reserve(C), Cancel, Pause, PauseQueue],
        Scene::Held => vec![Admit, Admit, Claim(B), Cancel, Pause, PauseQueue, LimitQueue, Repair],
        Scene::Scheduled => vec![Stage, Stage, Claim(B), Cancel, Pause, PauseQueue],
        Scene::Running => vec![
            Start,
            Checkpoint,
            Record,
            SqlStep,
            Suspend,
            Complete,
            Complete,
            Fail,
            Resume,
            Release,
            Paused,
            Cancelled,
            TakeOver(A),
            TakeOver(A),
            Beat(A),
            Deregister(A),
            Claim(B),
            Cancel,
            Pause,
            Unpause,
            Retry,
            Signal,
            Emit,
            Repair,
        ],
        Scene::Asking => vec![
            Approve,
            Approve,
            Reject,
            Signal,
            Emit,
            Expire,
            SuspendOnly,
            Complete,
            Release,
            Paused,
            TakeOver(A),
            Cancel,
            Pause,
            Repair,
        ],
        Scene::Waiting => {
            vec![Approve, Reject, Signal, Signal, Emit, Settle, Stage, Claim(B), Cancel, Cancel, Pause, Repair]
        }
        Scene::Due => vec![Stage, Stage, Approve, Emit, Cancel, Pause, Repair, Claim(B)],
        Scene::Paused => vec![Unpause, Unpause, Pause, Cancel, Approve, Signal, Emit, Settle, Repair, Claim(B)],
        Scene::Resuming => vec![Stage, Retry, Retry, Cancel, Pause, Repair, Claim(B)],
        Scene::Failed => vec![Retry, Retry, Cancel, Pause, Signal, Enqueue, Fail, Repair, Claim(B)],
        Scene::Completed => vec![Retry, Cancel, Complete, Fail, TakeOver(A)],
        Scene::Missed => vec![Repair, Settle, Signal, Emit, Approve, Cancel, Pause, Claim(B)],
        Scene::Doomed => vec![TakeOver(A), TakeOver(A), Approve, Signal, Complete, Release, Cancel, Pause, Repair],
        Scene::Stranded => vec![Requeue(A), Requeue(A), Repair, Complete, Release, Cancel, Pause, Claim(B)],
        Scene::Keyed => vec![Admit, Admit, Claim(B), Cancel, Pause, PauseQueue, LimitQueue, Repair],
        Scene::Kept => {
            vec![Complete, Fail, Cancelled, Release, TakeOver(A), Enqueue, Enqueue, Cancel, Pause, Retry, Stage, Repair]
        }
        Scene::Tomb => vec![Retry, Retry, Enqueue, Stage, Repair, Cancel, Fail],
        Scene::Stale => vec![Retry, Retry, Enqueue, Enqueue, Stage, Stage, Repair, Cancel],
    }
}

const SCENES: [Scene; 20] = [
    Scene::Fresh,
    Scene::Back,
    Scene::Solo,
    Scene::Held,
    Scene::Scheduled,
    Scene::Running,
    Scene::Asking,
    Scene::Waiting,
    Scene::Due,
    Scene::Paused,
    Scene::Resuming,
    Scene::Failed,
    Scene::Completed,
    Scene::Stranded,
    Scene::Missed,
    Scene::Doomed,
    Scene::Keyed,
    Scene::Kept,
    Scene::Tomb,
    Scene::Stale,
];

/// A session of its own: what follows a suspend follows it.
fn part(op: Op) -> Part {
    match op {
        Op::Suspend | Op::SuspendOnly => vec![op, Op::Commit, Op::Settle],
        _ => vec![op, Op::Commit],
    }
}

/// Every two of a scene's acts.
fn pairs() -> Vec<Spec> {
    let mut all = Vec::new();
    for scene in SCENES {
        let acts = acts(scene);
        for (n, one) in acts.iter().enumerate() {
            for other in &acts[n + 1..] {
                all.push(Spec { scene, parts: vec![part(*one), part(*other)], gates: 0 });
            }
        }
    }
    all
}

/// Plays every order of every spec; says how many there were.
async fn play(specs: Vec<Spec>) -> usize {
    let wanted = std::env::var("STEPD_TEST_SPEC").unwrap_or_default();
    let specs: Vec<Spec> = specs.into_iter().filter(|s| format!("{s:?}").contains(&wanted)).collect();
    let (began, n) = (Instant::now(), specs.len());
    let (specs, next) = (Arc::new(specs), Arc::new(AtomicUsize::new(0)));
    let mut houses = Vec::new();
    for _ in 0..HOUSES {
        let (specs, next) = (specs.clone(), next.clone());
        houses.push(tokio::spawn(async move {
            let mut house = House::open().await;
            let (mut orders, mut wrong) = (0, Vec::new());
            while let Some(spec) = specs.get(next.fetch_add(1, Ordering::SeqCst)) {
                for order in spec.orders() {
                    orders += 1;
                    if let Err(what) = house.play(spec, &order).await {
                        wrong.push(format!("{spec:?} in the order {order:?}:\n    {what}\n"));
                        house = House::open().await;
                        break;
                    }
                }
            }
            (orders, wrong)
        }));
    }
    let (mut orders, mut wrong) = (0, Vec::new());
    for house in houses {
        let (some, bad) = house.await.unwrap();
        orders += some;
        wrong.extend(bad);
    }
    let bad = wrong.len();
    let most = if std::env::var_os("STEPD_TEST_ALL").is_some() { bad } else { 12 };
    wrong.truncate(most);
    assert!(bad == 0, "{bad} of {n} specs failed, such as\n{}", wrong.concat());
    eprintln!("{n} specs, {orders} orders in {:?}", began.elapsed());
    orders
}

/// Three at once, where two of them race and the third looks on, or mends.
fn triples() -> Vec<Spec> {
    use Op::*;
    use Scene::*;
    let chosen: &[(Scene, [Op; 3])] = &[
        (Fresh, [Claim(B), Claim(C), Cancel]),
        (Fresh, [Claim(B), PauseQueue, Admit]),
        (Back, [Claim(B), Pause, Unpause]),
        (Solo, [ClaimSolo(B), Reserve(C), Cancel]),
        (Held, [Admit, Cancel, Claim(B)]),
        (Scheduled, [Stage, Cancel, Pause]),
        (Running, [Complete, TakeOver(A), Cancel]),
        (Running, [Checkpoint, TakeOver(A), TakeOver(A)]),
        (Running, [SqlStep, TakeOver(A), Repair]),
        (Running, [Release, Cancel, Claim(B)]),
        (Running, [Fail, Retry, Cancel]),
        (Running, [Resume, Retry, Stage]),
        (Running, [Op::Paused, Unpause, Pause]),
        (Running, [Suspend, Signal, Cancel]),
        (Asking, [SuspendOnly, Approve, Pause]),
        (Asking, [SuspendOnly, Emit, TakeOver(A)]),
        (Asking, [Expire, Approve, Cancel]),
        (Waiting, [Signal, Approve, Cancel]),
        (Waiting, [Emit, Signal, Repair]),
        (Waiting, [Approve, Pause, Claim(B)]),
        (Scene::Paused, [Unpause, Cancel, Approve]),
        (Resuming, [Retry, Stage, Cancel]),
        (Failed, [Retry, Retry, Enqueue]),
        (Failed, [Retry, Claim(B), Cancel]),
        (Stranded, [Requeue(A), Repair, Complete]),
        (Keyed, [Admit, Admit, Cancel]),
        (Keyed, [Admit, Claim(B), Pause]),
        (Kept, [Complete, Enqueue, Cancel]),
        (Kept, [Fail, Retry, Enqueue]),
        (Tomb, [Retry, Enqueue, Retry]),
        (Stale, [Retry, Stage, Enqueue]),
    ];
    chosen.iter().map(|(scene, ops)| Spec { scene: *scene, parts: ops.map(part).to_vec(), gates: 0 }).collect()
}

/// The first, which is a function of several statements, stops before every one that writes; the second goes on meanwhile.
fn torn() -> Vec<Spec> {
    use Op::*;
    use Scene::*;
    let chosen: &[(Scene, Op, &[Op])] = &[
        (Running, Cancel, &[Complete, Suspend, Release, Fail, Resume, Cancelled, TakeOver(A), Pause]),
        (Running, Pause, &[Complete, Suspend, Release, Op::Paused, Resume, Unpause, Cancel]),
        (Running, TakeOver(A), &[Complete, Checkpoint, Suspend, Release, Beat(A), TakeOver(A), Cancel, Repair]),
        (Running, Complete, &[TakeOver(A), Cancel, Pause, Signal, Complete]),
        (Running, Suspend, &[TakeOver(A), Cancel, Pause, Signal, Emit, Suspend]),
        (Running, Release, &[TakeOver(A), Cancel, Pause, Claim(B)]),
        (Running, SqlStep, &[TakeOver(A), Cancel, SqlStep]),
        (Asking, Approve, &[SuspendOnly, Expire, Reject, Complete, TakeOver(A), Cancel]),
        (Asking, Expire, &[Approve, Signal, TakeOver(A), Cancel]),
        (Waiting, Cancel, &[Approve, Signal, Emit, Stage, Pause, Claim(B), Cancel]),
        (Waiting, Approve, &[Cancel, Pause, Reject, Signal, Repair]),
        (Waiting, Signal, &[Cancel, Pause, Emit, Signal, Repair, Settle]),
        (Due, Stage, &[Approve, Cancel, Pause, Repair]),
        (Scene::Paused, Unpause, &[Cancel, Approve, Signal, Unpause, Pause, Repair]),
        (Resuming, Retry, &[Stage, Cancel, Pause, Retry]),
        (Failed, Retry, &[Retry, Cancel, Enqueue, Claim(B), Pause, Signal]),
        (Held, Admit, &[Cancel, Pause, PauseQueue, LimitQueue]),
        (Fresh, Claim(B), &[Cancel, Pause, Claim(C), PauseQueue, Admit]),
        (Stranded, Requeue(A), &[Requeue(A), Repair, Cancel, Pause]),
        (Keyed, Admit, &[Admit, Cancel, Pause, PauseQueue, LimitQueue]),
        (Kept, Complete, &[Enqueue, Cancel, Retry, TakeOver(A)]),
        (Kept, Fail, &[Enqueue, Cancel, Retry, TakeOver(A)]),
        (Tomb, Retry, &[Retry, Enqueue, Stage, Repair]),
        (Stale, Retry, &[Retry, Enqueue, Stage, Repair]),
    ];
    let mut all = Vec::new();
    for (scene, first, others) in chosen {
        for other in *others {
            all.push(Spec { scene: *scene, parts: vec![part(*first), part(*other)], gates: 3 });
        }
    }
    all
}

/// Five that each end or revive a run, each by itself: 120 orders.
fn five() -> Vec<Spec> {
    use Op::*;
    let ops = [Cancel, Complete, Fail, Retry, Resume];
    let scenes = [Scene::Running, Scene::Asking, Scene::Resuming, Scene::Failed, Scene::Paused];
    scenes.map(|scene| Spec { scene, parts: ops.map(|op| vec![op]).to_vec(), gates: 0 }).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_two_transitions_in_every_order_keep_what_is_promised() {
    play(pairs()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_transitions_in_every_order_keep_what_is_promised() {
    play(triples()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_torn_apart_by_another_transition_keeps_what_is_promised() {
    play(torn()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_complete_fail_retry_and_resume_in_every_order_keep_what_is_promised() {
    play(five()).await;
}
