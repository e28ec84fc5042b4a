use super::*;

fn log(all: &Arc<StepLogs>, attempt: u32) -> StepLog {
    let (run, worker) = (RunId(uuid::Uuid::nil()), WorkerId(uuid::Uuid::nil()));
    all.of(Whose { run, worker, epoch: 1, key: StepKey::new("s"), attempt })
}

fn say(log: &StepLog, text: &str) {
    log.push(Stream::Stderr, LogLevel::Info, text);
}

fn taken(all: &StepLogs) -> Vec<(i64, Vec<String>)> {
    all.take().into_iter().map(|c| (c.first, c.lines.into_iter().map(|l| l.text).collect())).collect()
}

#[test]
fn lines_are_taken_once_and_in_their_order() {
    let all = StepLogs::new(10_000);
    let (one, two) = (log(&all, 1), log(&all, 2));
    say(&one, "a");
    say(&two, "x");
    say(&one, "b");
    assert_eq!(taken(&all), [(1, vec!["a".into(), "b".into()]), (1, vec!["x".to_owned()])]);
    assert_eq!(taken(&all), []);
    say(&one, "c");
    assert_eq!(taken(&all), [(3, vec!["c".to_owned()])]);
    assert_eq!(all.held.load(Ordering::Relaxed), 0);
}

#[test]
fn of_what_is_too_much_the_last_lines_are_kept_and_their_numbers_say_how_many_are_not() {
    let all = StepLogs::new(1_000);
    let log = log(&all, 1);
    (1..=1_000_000).for_each(|n| say(&log, &n.to_string()));
    let [(first, lines)] = &taken(&all)[..] else { panic!("one part") };
    assert_eq!(lines.last().unwrap(), "1000000");
    assert_eq!(*first, 1_000_001 - lines.len() as i64);
    assert!((5..=15).contains(&lines.len()));
    say(&log, &"x".repeat(900));
    assert_eq!(
        all.take()[0].gone,
        [0],
        "and what had been taken before goes when it does not belong to the tail any more"
    );
}

#[test]
fn nothing_grows_beyond_its_bound_however_many_write() {
    let all = StepLogs::new(1 << 20);
    let logs: Vec<_> = (0..100).map(|n| log(&all, n)).collect();
    let text = "y".repeat(LONGEST);
    (0..100).for_each(|_| logs.iter().for_each(|log| say(log, &text)));
    assert!(all.held.load(Ordering::Relaxed) <= HELD);
    let mut parts = 0;
    loop {
        let batch = all.take();
        if batch.is_empty() {
            break;
        }
        let size: usize = batch.iter().flat_map(|c| &c.lines).map(|l| l.text.len()).sum();
        assert!(size <= BATCH + CHUNK, "{size}");
        parts += batch.len();
    }
    assert!(parts > 100);
    assert_eq!(all.held.load(Ordering::Relaxed), 0);
}

#[test]
fn a_gap_parts_two_chunks() {
    let all = StepLogs::new(HELD * 2);
    let (one, full) = (log(&all, 1), log(&all, 2));
    say(&one, "a");
    drop(taken(&all));
    let text = "z".repeat(LONGEST);
    while all.held.load(Ordering::Relaxed) + 2 * LONGEST < HELD {
        say(&full, &text);
    }
    say(&one, "b");
    // There is no room for the next, and none of its own to make any.
    let mut tail = locked(&one.0.as_ref().unwrap().tail);
    tail.written += 1;
    drop(tail);
    say(&one, "d");
    let of_one = |parts: Vec<Chunk>| {
        let own = parts.into_iter().filter(|c| c.whose.attempt == 1);
        own.map(|c| (c.first, c.lines.len())).collect::<Vec<_>>()
    };
    assert_eq!(of_one(all.take()), [(2, 1)]);
    let mut rest = Vec::new();
    while let batch = all.take()
        && !batch.is_empty()
    {
        rest.extend(of_one(batch));
    }
    assert_eq!(rest, [(4, 1)]);
}

#[test]
fn where_nothing_is_kept_nothing_is_held() {
    let all = StepLogs::new(0);
    let log = log(&all, 1);
    say(&log, "a");
    assert!(!log.is_kept() && all.take().is_empty());
}

#[test]
fn a_kept_line_obeys_no_terminal_and_holds_no_secret_be_it_cut_or_painted() {
    redact::add(&["kept-secret-0815".to_owned()], &[]);
    let cut = format!("{}kept-secret-08", "x".repeat(10));
    assert_eq!(clean(&cut, true), "xxxxxxxxxx*** […]");
    assert_eq!(clean("a kept-sec\u{1b}[31mret-0815 b", false), "a *** b");
    assert_eq!(
        clean("\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{7}x\u{1b}]8;;u\u{1b}\\y\u{1b}cz\u{1b}", false),
        "red xyz"
    );
    assert_eq!(clean("nul\0tab\t", false), "nul\u{fffd}tab\t");
}

#[test]
fn a_line_that_is_far_too_long_is_cut_between_two_characters() {
    let all = StepLogs::new(1 << 20);
    let log = log(&all, 1);
    say(&log, &format!("a{}", "ä".repeat(LONGEST)));
    let text = taken(&all).remove(0).1.remove(0);
    assert!(text.len() <= LONGEST + 8 && text.ends_with("ä […]"));
}
