use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn part(seq: i32, key: &str, state: StepState, from: i64, to: Option<i64>) -> Part {
    Part { seq, key: key.to_owned(), state, does: Does::Work, from: at(from), to: to.map(at) }
}

/// A map of `n` items of two steps each; the second step of every hundredth has failed.
fn items(n: i32) -> Vec<Part> {
    let map = Part { does: Does::Frame, ..part(1, "docs", StepState::Running, 0, None) };
    let item = |i: i32| {
        let state = if i % 100 == 7 { StepState::Failed } else { StepState::Completed };
        let from = i64::from(i);
        let text = part(2 * i + 2, &format!("docs[{i}].text"), StepState::Completed, from, Some(from + 1));
        [text, part(2 * i + 3, &format!("docs[{i}].save"), state, from + 1, Some(from + 2))]
    };
    std::iter::once(map).chain((0..n).flat_map(item)).collect()
}

fn at_the_top() -> Wanted<'static> {
    Wanted { under: "", state: None, after: None, limit: 200 }
}

#[test]
fn a_key_stands_under_the_nodes_that_it_names_and_under_no_other() {
    let node = |key, under| node_of(key, under);
    assert_eq!(node("docs[12].text", ""), Some("docs"));
    assert_eq!(node("docs[12].text", "docs"), Some("docs[12]"));
    assert_eq!(node("docs[12].text", "docs[12]"), Some("docs[12].text"));
    assert_eq!(node("charge.undo", "charge"), Some("charge.undo"));
    for (key, under) in [("docs", "docs"), ("docsx[1]", "docs"), ("docs[12]", "docs[1]"), ("é", "docs")] {
        assert_eq!(node(key, under), None, "{key} under {under}");
    }
    for key in ["", "[", "é[1", "a..b", "a[1].é.b", "."] {
        let _ = (node(key, ""), node(key, "a"), node(key, "a[1]"), shape(key));
    }
}

#[test]
fn few_steps_are_told_whole_and_many_by_what_they_come_to() {
    assert_eq!(level(&items(20), &[], &at_the_top(), at(90)).whole.len(), 41);
    let all = items(5_000);
    let tries = [("docs[7].save".to_owned(), at(9)), ("other".to_owned(), at(9))];
    let top = level(&all, &tries, &at_the_top(), at(6_000));
    assert_eq!(top.whole, ["docs"], "the map itself is a step");
    let fold = &top.folds[0];
    assert_eq!((fold.path.as_str(), fold.items, fold.steps, fold.failed_attempts), ("docs", 5_000, 10_000, 1));
    assert_eq!(fold.states, States::from([("completed", 9_950), ("failed", 50)]));
    assert_eq!(fold.shapes["docs[*].save"], States::from([("completed", 4_950), ("failed", 50)]));
    assert_eq!((fold.from, fold.to), (at(0), Some(at(5_001))));
    assert_eq!((fold.at_work.len(), fold.failed.len()), (CELLS, 50));
    assert!(fold.at_work[1..CELLS - 1].iter().all(|n| (*n - 2.0).abs() < 0.1), "two at a time: {:?}", fold.at_work);
    // Unfolded: each item whole, those that failed found by their state.
    let failed = Wanted { under: "docs", state: Some(StepState::Failed), after: None, limit: 20 };
    let failed = level(&all, &tries, &failed, at(6_000));
    assert_eq!(failed.whole[..3], ["docs[7].text", "docs[7].save", "docs[107].text"]);
    assert_eq!((failed.whole.len(), failed.left), (40, 30));
}

#[test]
fn what_is_under_way_goes_until_now() {
    let mut all = items(60);
    all[50].to = None;
    all[50].state = StepState::Running;
    let top = level(&all, &[], &at_the_top(), at(1_000));
    assert_eq!((top.folds[0].to, top.folds[0].at_work[CELLS - 1]), (None, 1.0));
}

#[test]
fn the_time_of_a_run_goes_to_what_hid_the_rest() {
    let wait = Part { does: Does::Wait, ..part(2, "ok", StepState::Waiting, 50, None) };
    let parts = [part(1, "a", StepState::Completed, 10, Some(40)), wait];
    let known =
        [(Stretch::Lost, at(20), at(25)), (Stretch::Resuming, at(42), at(45)), (Stretch::Paused, at(60), at(70))];
    let sums = sums(&parts, &known, (at(0), Some(at(10)), at(100)));
    let s = 1_000_000;
    let told = Sums {
        total_us: 100 * s,
        queued_us: 10 * s,
        working_us: 25 * s,
        waiting_us: 40 * s,
        lost_us: 5 * s,
        resuming_us: 3 * s,
        paused_us: 10 * s,
        between_us: 7 * s,
    };
    assert_eq!(sums, told);
}

proptest! {
    #[test]
    fn the_parts_of_a_runs_time_add_up(
        steps in prop::collection::vec((0..200_i64, 0..200_i64, 0..3_u8), 0..30),
        known in prop::collection::vec((0..200_i64, 0..200_i64, 0..3_u8), 0..5),
        (created, started, until) in (0..100_i64, prop::option::of(0..200_i64), 0..300_i64),
    ) {
        let does = |n| [Does::Work, Does::Wait, Does::Frame][usize::from(n)];
        let parts: Vec<Part> = steps.iter().zip(1..).map(|((from, to, n), seq)| Part {
            does: does(*n), ..part(seq, "s", StepState::Completed, *from, Some(*to))
        }).collect();
        let stretch = |n| [Stretch::Lost, Stretch::Paused, Stretch::Resuming][usize::from(n)];
        let known: Vec<_> = known.iter().map(|(from, to, n)| (stretch(*n), at(*from), at(*to))).collect();
        let s = sums(&parts, &known, (at(created), started.map(at), at(until)));
        let parts = [s.queued_us, s.working_us, s.waiting_us, s.lost_us, s.resuming_us, s.paused_us, s.between_us];
        prop_assert!(parts.iter().all(|part| *part >= 0));
        prop_assert_eq!(parts.iter().sum::<i64>(), s.total_us);
        prop_assert_eq!(s.total_us, (at(until.max(created)) - at(created)).num_microseconds().unwrap());
    }

    #[test]
    fn pages_leave_no_node_out_and_tell_none_twice(n in 1..400_i32, limit in 1..50_usize, deep in any::<bool>()) {
        let mut all = items(n);
        // Steps that stand alone, between.
        all.extend((0..40).map(|i| part(i * 7, &format!("one{i}"), StepState::Completed, 0, Some(1))));
        all.sort_by(|a, b| (a.seq, &a.key).cmp(&(b.seq, &b.key)));
        let under = if deep { "docs" } else { "" };
        let (mut told, mut after) = (Vec::new(), None);
        loop {
            let page = level(&all, &[], &Wanted { under, state: None, after, limit }, at(0) + TimeDelta::days(1));
            told.extend(page.whole);
            told.extend(page.folds.iter().flat_map(|f| all.iter().filter(|p| node_of(&p.key, &f.path).is_some()).map(|p| p.key.clone())));
            after = page.next;
            if after.is_none() { break; }
        }
        told.sort();
        let mut keys: Vec<String> = all.iter().filter(|p| node_of(&p.key, under).is_some()).map(|p| p.key.clone()).collect();
        keys.sort();
        prop_assert_eq!(told, keys);
    }
}
