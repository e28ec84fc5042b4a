use super::*;
use chrono::DateTime;
use proptest::prelude::*;

fn line(at: i64, event: &str, key: &str) -> Arc<Line> {
    Arc::new(Line::new(&HistoryLine {
        seq: 1,
        at: DateTime::from_timestamp_micros(at).unwrap(),
        event: event.into(),
        key: Some(key.into()),
        attempt: None,
        by_whom: None,
        epoch: Some(1),
        data: None,
    }))
}

fn id(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json).unwrap()["id"].as_str().unwrap().to_owned()
}

fn sorted(mut lines: Vec<Arc<Line>>) -> Vec<Arc<Line>> {
    lines.sort_by_key(|l| l.at);
    lines
}

#[test]
fn a_reader_who_comes_back_is_told_what_is_new_also_what_is_new_and_old() {
    let early: Vec<_> = (10..60).map(|n| line(n, "step completed", &n.to_string())).collect();
    let mut teller = Teller::after(None);
    let told = teller.news(&early);
    assert_eq!(told.len(), 50);
    let cursor = Cursor::parse(&told[49].1).unwrap();
    // One that had begun first is written last; and one more comes.
    let mut lines = early.clone();
    lines.extend([line(3, "step started", "slow"), line(99, "step completed", "slow")]);
    let news = Teller::after(Some(cursor)).news(&sorted(lines));
    assert_eq!(news.len(), 2, "{news:?}");
    assert!(news[0].0.contains("step started") && news[0].0.starts_with("{\"seq\":51,"), "{news:?}");
}

#[test]
fn a_number_alone_is_that_many_lines() {
    let lines: Vec<_> = (0..5).map(|n| line(n, "step completed", &n.to_string())).collect();
    let news = Teller::after(Cursor::parse("3")).news(&lines);
    assert_eq!(news.len(), 2);
    assert!(news[0].0.starts_with("{\"seq\":4,"));
}

#[test]
fn what_is_no_cursor_is_none() {
    for text in ["", "x", "-1", "1-x-0-", "1-2", "1-2-3-4", "1-2-3-0000000g", "1-2-3-00000000-1", "1-2-3-äöüäöüäö"]
    {
        assert_eq!(Cursor::parse(text), None, "{text}");
    }
}

proptest! {
    /// However lines come in, and wherever the connection is cut: nothing is left out, and the numbers grow.
    #[test]
    fn over_any_cut_nothing_is_left_out_and_numbers_grow(
        arrivals in proptest::collection::vec((0i64..200, 0usize..4), 1..120),
        cuts in proptest::collection::vec(0usize..120, 0..6),
    ) {
        let events = ["step started", "step completed", "step failed", "attempt failed"];
        let lines: Vec<_> = arrivals.iter().enumerate().map(|(n, (at, e))| line(*at, events[*e], &n.to_string())).collect();
        let (mut teller, mut cursor, mut seen, mut last) = (Teller::after(None), None, HashSet::new(), 0);
        for n in 1..=lines.len() {
            if cuts.contains(&n) {
                teller = Teller::after(cursor.clone());
            }
            for (json, at) in teller.news(&sorted(lines[..n].to_vec())) {
                let seq = serde_json::from_str::<serde_json::Value>(&json).unwrap()["seq"].as_u64().unwrap();
                prop_assert!(seq > last);
                last = seq;
                seen.insert(id(&json));
                cursor = Cursor::parse(&at);
                prop_assert!(cursor.is_some(), "{at}");
            }
        }
        prop_assert_eq!(seen.len(), lines.len());
    }

    /// In the order in which most histories come, nothing is told twice either.
    #[test]
    fn over_any_cut_of_a_history_in_order_nothing_is_told_twice(n in 1usize..100, cuts in proptest::collection::vec(0usize..100, 0..6)) {
        let lines: Vec<_> = (0..n).map(|n| line(n as i64, "step completed", &n.to_string())).collect();
        let (mut teller, mut cursor, mut told) = (Teller::after(None), None, 0);
        for n in 1..=lines.len() {
            if cuts.contains(&n) {
                teller = Teller::after(cursor.clone());
            }
            for (_, at) in teller.news(&lines[..n]) {
                told += 1;
                cursor = Cursor::parse(&at);
            }
        }
        prop_assert_eq!(told, n);
    }
}
