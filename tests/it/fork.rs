//! A run forked from a step: what is kept, what runs anew, and what a changed definition would break.

use serde_json::{Value, json};

use crate::cli::stepd;
use crate::support::{Db, Files, SOON, Spec};

/// Each step leaves a line; `third` fails as long as the file is missing.
const CHAIN: &str = "
name: chain
resume: never
retry: {max_attempts: 1}
steps:
  - id: first
    run: echo first >> @DIR@/log; echo 1
  - id: second
    run: echo second >> @DIR@/log; echo \"$N\"
    env: {N: \"${{ input.n }}\"}
  - id: third
    run: echo third >> @DIR@/log; test -e @DIR@/there && echo 3
output: '[steps.first.output, steps.second.output, steps.third.output]'
";

async fn output(db: &Db, run: &str) -> Value {
    serde_json::from_str(&db.output(run).await).unwrap()
}

async fn fork(db: &Db, run: &str, step: &str, more: &str) -> String {
    db.one(format!("SELECT stepd.fork('{run}', '{step}'{more})::text")).await
}

#[tokio::test]
async fn a_fork_keeps_what_had_ended_before_its_step_began_and_leaves_the_run_as_it_is() {
    let (db, files) = (Db::new().await, Files::new([CHAIN]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run: String = db
        .one("INSERT INTO stepd.jobs (workflow, input, unique_key, labels) VALUES ('chain', '{\"n\": 2}', 'k', '{\"a\": \"b\"}') RETURNING id::text")
        .await;
    db.reaches(&run, "failed", SOON).await;
    let before: Vec<String> =
        db.all(format!("SELECT s::text FROM stepd.steps s WHERE run = '{run}' ORDER BY seq")).await;
    std::fs::write(files.path("there"), "").unwrap();

    // From the step that failed: the two before it keep their results.
    let third = fork(&db, &run, "third", "").await;
    db.reaches(&third, "completed", SOON).await;
    assert_eq!(output(&db, &third).await, json!([1, 2, 3]));
    assert_eq!(files.lines("log"), ["first", "second", "third", "third"]);
    // From one in the middle, with another input: it and all behind it see that.
    let second = fork(&db, &run, "second", ", '{\"n\": 7}'").await;
    db.reaches(&second, "completed", SOON).await;
    assert_eq!(output(&db, &second).await, json!([1, 7, 3]));
    assert_eq!(files.lines("log")[4..], ["second", "third"]);
    // Of a run that has ended well: its last step rides with the run.
    let again = fork(&db, &third, "third", "").await;
    db.reaches(&again, "completed", SOON).await;
    assert_eq!(output(&db, &again).await, json!([1, 2, 3]));

    let after: Vec<String> =
        db.all(format!("SELECT s::text FROM stepd.steps s WHERE run = '{run}' ORDER BY seq")).await;
    assert_eq!(before, after, "the run that was forked stays as it is");
    assert_eq!(db.state(&run).await, "failed");
    let told = format!(
        "SELECT forked_from::text || ' ' || coalesce(unique_key, 'no key') || ' ' || (labels ->> 'a') FROM stepd.runs WHERE id = '{third}'"
    );
    assert_eq!(db.one::<String>(told).await, format!("{run} no key b"));
    // What was kept was not done here: no attempts, no lines; the fork itself has one.
    assert_eq!(db.count(format!("SELECT count(*) FROM stepd.attempts WHERE run = '{third}'")).await, 1);
    let events: Vec<String> = db
        .all(format!("SELECT event || coalesce(' ' || key, '') FROM stepd.history WHERE run = '{third}' ORDER BY seq"))
        .await;
    assert_eq!(events[0], "run enqueued");
    assert!(events.contains(&"forked third".into()) && !events.iter().any(|e| e.ends_with("first")), "{events:?}");
}

/// Steps before and after a map of two; each leaves a line.
const AROUND: &str = "
name: around
steps:
  - id: before
    run: echo before >> @DIR@/log; echo 1
  - id: each
    map: [10, 20]
    steps:
      - id: text
        run: echo text$I >> @DIR@/log; echo \"$N$I\"
        env: {I: \"${{ item }}\", N: \"${{ input.n }}\"}
      - {id: size, run: echo size >> @DIR@/log; echo 5}
  - {id: after, run: echo after >> @DIR@/log; echo 3}
output: '[steps.before.output, steps.each.output, steps.after.output]'
finally: [{id: close, run: echo close >> @DIR@/log}]
";

#[tokio::test]
async fn one_step_alone_runs_anew_and_what_came_after_it_keeps_its_result() {
    let (db, files) = (Db::new().await, Files::new([CHAIN, AROUND]));
    let _worker = Spec::new(&db, &files).ready().await;
    std::fs::write(files.path("there"), "").unwrap();
    let run = db.enqueue("chain", "{\"n\": 2}").await;
    db.reaches(&run, "completed", SOON).await;
    let again = fork(&db, &run, "second", ", '{\"n\": 7}', alone => true").await;
    db.reaches(&again, "completed", SOON).await;
    assert_eq!(output(&db, &again).await, json!([1, 7, 3]));
    assert_eq!(files.lines("log"), ["first", "second", "third", "second"]);
    let alone = format!("SELECT data ->> 'alone' FROM stepd.history WHERE run = '{again}' AND event = 'forked'");
    assert_eq!(db.one::<String>(alone).await, "true");
    // The first and the last one, too; the last rides with the run.
    for (step, log) in [("first", "first"), ("third", "third")] {
        let one = fork(&db, &run, step, ", alone => true").await;
        db.reaches(&one, "completed", SOON).await;
        assert_eq!(output(&db, &one).await, json!([1, 2, 3]));
        assert_eq!(files.lines("log").last().unwrap(), log);
    }
    assert_eq!(files.lines("log").len(), 6);
    // One item's step; the map with all that it is made of; and what is done at the end of a run is done at the end of this one.
    std::fs::remove_file(files.path("log")).unwrap();
    let run = db.enqueue("around", "{\"n\": 1}").await;
    db.reaches(&run, "completed", SOON).await;
    let (first, whole) = (output(&db, &run).await, files.lines("log").len());
    let item = fork(&db, &run, "each[1].text", ", '{\"n\": 9}', alone => true").await;
    db.reaches(&item, "completed", SOON).await;
    assert_eq!(files.lines("log")[whole..], ["text20", "close"]);
    assert_eq!(output(&db, &item).await[2], first[2]);
    let texts = format!(
        "SELECT string_agg(output::text, ' ' ORDER BY key) FROM stepd.steps WHERE run = '{item}' AND key LIKE 'each[%].text'"
    );
    assert_eq!(db.one::<String>(texts).await, "110 920");
    let map = fork(&db, &run, "each", ", alone => true").await;
    db.reaches(&map, "completed", SOON).await;
    assert_eq!(output(&db, &map).await, first);
    let mut ran = files.lines("log")[whole + 2..].to_vec();
    ran.sort();
    assert_eq!(ran, ["close", "size", "size", "text10", "text20"]);
}

#[tokio::test]
async fn a_fork_inside_of_a_map_keeps_its_items_and_those_that_were_done() {
    let (db, files) = (
        Db::new().await,
        Files::new(["
name: docs
resume: never
retry: {max_attempts: 1}
steps:
  - id: list
    run: cat @DIR@/list
  - id: docs
    map: ${{ steps.list.output }}
    as: doc
    steps:
      - id: text
        run: echo \"text $D\" >> @DIR@/log; echo \"\\\"$D\\\"\"
        env: {D: \"${{ doc }}\"}
      - id: save
        run: echo \"save $D\" >> @DIR@/log; test \"$D\" != b || test -e @DIR@/there
        env: {D: \"${{ doc }}\"}
  - {id: end, set: \"${{ steps.docs.count }}\"}
output: steps.end.output
"]),
    );
    std::fs::write(files.path("list"), r#"["a", "b", "c"]"#).unwrap();
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("docs", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(files.lines("log"), ["text a", "save a", "text b", "save b"]);
    std::fs::write(files.path("there"), "").unwrap();
    std::fs::write(files.path("list"), r#"["z"]"#).unwrap();
    let fork_of_save = fork(&db, &run, "docs[1].save", "").await;
    db.reaches(&fork_of_save, "completed", SOON).await;
    assert_eq!(files.lines("log")[4..], ["save b", "text c", "save c"], "the items are those of before");
    assert_eq!(output(&db, &fork_of_save).await, json!(3));
    // From a step of a map that is whole: the map is put together anew.
    let of_whole = fork(&db, &fork_of_save, "docs[2].save", "").await;
    db.reaches(&of_whole, "completed", SOON).await;
    assert_eq!(files.lines("log")[7..], ["save c"]);
    // From the map itself, all of its items run anew.
    let of_map = fork(&db, &run, "docs", "").await;
    db.reaches(&of_map, "completed", SOON).await;
    assert_eq!(files.lines("log")[8..], ["text a", "save a", "text b", "save b", "text c", "save c"]);
}

#[tokio::test]
async fn a_fork_of_branches_keeps_none_that_could_have_seen_its_step() {
    let (db, files) = (
        Db::new().await,
        Files::new(["
name: branches
steps:
  - {id: a, run: echo a >> @DIR@/log, needs: []}
  - {id: b, run: echo b >> @DIR@/log, needs: [a]}
  - {id: c, run: sleep 0.3; echo c >> @DIR@/log, needs: [a]}
  - {id: d, run: echo d >> @DIR@/log, needs: [b]}
  - {id: e, run: echo e >> @DIR@/log, needs: [c, d]}
"]),
    );
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("branches", "{}").await;
    db.reaches(&run, "completed", SOON).await;
    let fork = fork(&db, &run, "b", "").await;
    db.reaches(&fork, "completed", SOON).await;
    let mut anew = files.lines("log")[5..].to_vec();
    anew.sort();
    // `c` began after `b` had: it could not have seen it, but only the order tells, so it runs anew.
    assert_eq!(anew, ["b", "c", "d", "e"]);
    let kept: Vec<String> = db.all(format!("SELECT key FROM stepd.steps WHERE run = '{fork}' AND attempts = 0")).await;
    assert_eq!(kept, ["a"]);
}

#[tokio::test]
async fn what_cannot_be_forked_is_refused_with_the_steps_that_can() {
    let (db, files) = (Db::new().await, Files::new([CHAIN]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("chain", r#"{"n": 1}"#).await;
    db.reaches(&run, "failed", SOON).await;
    stepd(&db, &["fork", &run, "--from", "thrid"]).await.is(3).says("SD017").says("first, second, third");
    stepd(&db, &["fork", "00000000-0000-0000-0000-000000000000", "--from", "x"]).await.is(3).says("SD010");
    stepd(&db, &["fork", &run]).await.is(2);
    assert_eq!(db.count("SELECT count(*) FROM stepd.runs").await, 1);
    let done =
        stepd(&db, &["fork", &run[..20], "--from", "second", "--input", r#"{"n": 5}"#, "-o", "json"]).await.is(0);
    let told: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&told["forked_from"], &told["from_step"]), (&json!(run), &json!("second")));
    let shown = stepd(&db, &["show", told["id"].as_str().unwrap()]).await.is(0);
    assert!(shown.out.contains(&format!("from {run}")), "{}", shown.out);
}

/// The first version of a workflow waits; the second has another kind of step, and one step less.
const FIRST: &str = "name: moved\nsteps:\n  - {id: quote, set: 1}\n  - {id: price, set: 2}\n  - {id: go, wait: go}\n  - {id: end, run: 'false', retry: {max_attempts: 1}}\nresume: never\n";
const SECOND: &str = "name: moved\nsteps:\n  - {id: quote, set: 1}\n  - {id: price, set: 2}\n  - {id: go, wait: go}\n  - {id: end, run: 'true'}\nresume: never\n";
const BREAKS: &str = "name: moved\ninput: {required: [n]}\nsteps:\n  - {id: quote, run: 'true'}\n  - {id: go, wait: go}\n  - {id: end, run: 'true'}\n";

#[tokio::test]
async fn a_retry_with_the_present_definition_moves_the_run_to_it() {
    let (db, files) = (Db::new().await, Files::new([FIRST]));
    let mut worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("moved", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    db.exec("SELECT stepd.emit('go', '{}')").await;
    db.reaches(&run, "failed", SOON).await;
    worker.kill9();
    files.write("w0.yaml", SECOND);
    let _worker = Spec::new(&db, &files).ready().await;
    // On its own it keeps the definition that it began with, and fails again.
    stepd(&db, &["retry", &run]).await.is(0);
    db.reaches(&run, "failed", SOON).await;
    stepd(&db, &["retry", &run, "--latest"]).await.is(0);
    db.reaches(&run, "completed", SOON).await;
    // As does a fork of it.
    let same: String = fork(&db, &run, "go", ", latest => false").await;
    let definition = |id: &str| format!("SELECT definition FROM stepd.runs WHERE id = '{id}'");
    assert_eq!(db.one::<i32>(definition(&same)).await, db.one::<i32>(definition(&run)).await);
}

#[tokio::test]
async fn the_check_lists_the_runs_that_a_changed_file_would_break_and_why() {
    let (db, files) = (Db::new().await, Files::new([FIRST]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("moved", "{}").await;
    db.reaches(&run, "waiting", SOON).await;
    let later: String = db
        .one("INSERT INTO stepd.jobs (workflow, run_at) VALUES ('moved', now() + interval '1 day') RETURNING id::text")
        .await;
    let path = |name: &str, text: &str| {
        let path = files.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let fits = path("second.yaml", SECOND);
    stepd(&db, &["check", "--in-flight", &fits]).await.is(0).says("fits all 2 unfinished runs");
    let breaks = path("breaks.yaml", BREAKS);
    let done = stepd(&db, &["check", "--in-flight", &breaks]).await.is(1).says("breaks 2 of 2");
    for told in [
        &*run,
        "`quote` was recorded as `set` and is now `run`",
        "`price` (set) was done, and is not there any more",
        &*later,
        "required",
    ] {
        assert!(done.out.contains(told), "{told} is not in {}", done.out);
    }
    let done = stepd(&db, &["check", "--in-flight", &breaks, "-o", "id"]).await.is(1);
    assert!(done.out == format!("{run}\n{later}\n"), "{}", done.out);
    let wrong = path("wrong.yaml", "name: moved\nstps: []\n");
    stepd(&db, &["check", "--in-flight", &wrong]).await.is(1).says("mend the files first");
}

/// The case that is taken is that of the input; `two` fails as long as a file is missing.
const SWITCH: &str = "
name: cases
resume: never
retry: {max_attempts: 1}
steps:
  - {id: before, run: echo before >> @DIR@/log}
  - id: pick
    switch: input.kind
    cases:
      a:
        - {id: one, run: echo one >> @DIR@/log; echo 1}
        - {id: two, run: echo two >> @DIR@/log; test -e @DIR@/there && echo 2}
      b: [{id: other, run: echo other >> @DIR@/log}]
";

#[tokio::test]
async fn a_fork_inside_of_a_case_stays_in_it_and_one_of_the_switch_chooses_anew() {
    let (db, files) = (Db::new().await, Files::new([SWITCH]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("cases", r#"{"kind": "a"}"#).await;
    db.reaches(&run, "failed", SOON).await;
    std::fs::write(files.path("there"), "").unwrap();
    let two = fork(&db, &run, "two", ", '{\"kind\": \"b\"}'").await;
    db.reaches(&two, "completed", SOON).await;
    assert_eq!(files.lines("log"), ["before", "one", "two", "two"]);
    // Of a run that has ended with its switch: that too stands open for a step inside it.
    let again = fork(&db, &two, "two", "").await;
    db.reaches(&again, "completed", SOON).await;
    assert_eq!(files.lines("log")[4..], ["two"]);
    assert_eq!(output(&db, &again).await["pick"], json!(2));
    let pick = fork(&db, &again, "pick", ", '{\"kind\": \"b\"}'").await;
    db.reaches(&pick, "completed", SOON).await;
    assert_eq!(files.lines("log")[5..], ["other"]);
}

#[tokio::test]
async fn a_switch_that_had_ended_before_the_fork_s_step_is_kept_with_what_failed_in_it() {
    let text = SWITCH.replace("    switch:", "    on_error: continue\n    switch:");
    let (db, files) =
        (Db::new().await, Files::new([format!("{text}  - {{id: after, run: echo after >> @DIR@/log}}\n")]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("cases", r#"{"kind": "a"}"#).await;
    db.reaches(&run, "completed", SOON).await;
    let after = fork(&db, &run, "after", "").await;
    db.reaches(&after, "completed", SOON).await;
    assert_eq!(files.lines("log"), ["before", "one", "two", "after", "after"]);
    let state = format!("SELECT state::text FROM stepd.steps WHERE run = '{after}' AND key = 'pick'");
    assert_eq!(db.one::<String>(state).await, "failed");
}

#[tokio::test]
async fn a_fork_inside_of_a_repeat_goes_on_with_that_iteration() {
    let text = "
name: poll
resume: never
steps:
  - id: poll
    repeat:
      steps:
        - {id: look, run: 'echo \"look $N\" >> @DIR@/log; echo $N', env: {N: '${{ index }}'}}
        - {id: note, run: 'echo \"note $N\" >> @DIR@/log; test -e @DIR@/there && echo true || echo false', env: {N: '${{ index }}'}}
      until: steps.note.output
      max: 3
    output: index
  - {id: after, run: echo after >> @DIR@/log}
output: steps.poll.output
";
    let (db, files) = (Db::new().await, Files::new([text]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("poll", "{}").await;
    db.reaches(&run, "failed", SOON).await;
    assert_eq!(files.lines("log").len(), 6);
    std::fs::write(files.path("there"), "").unwrap();
    for (step, did) in [
        ("poll[1].note", vec!["note 1", "after"]),
        ("poll[1].look", vec!["look 1", "note 1", "after"]),
        ("poll", vec!["look 0", "note 0", "after"]),
    ] {
        let before = files.lines("log").len();
        let forked = fork(&db, &run, step, "").await;
        db.reaches(&forked, "completed", SOON).await;
        assert_eq!(files.lines("log")[before..], did, "{step}");
        assert_eq!(output(&db, &forked).await, json!(u8::from(step != "poll")), "{step}");
    }
    // Not from the beginning of what is done, and not past its bound.
    std::fs::remove_file(files.path("there")).unwrap();
    let before = files.lines("log").len();
    let forked = fork(&db, &run, "poll[2].look", "").await;
    db.reaches(&forked, "failed", SOON).await;
    assert_eq!(files.lines("log")[before..], ["look 2", "note 2"]);
}

#[tokio::test]
async fn a_fork_of_a_run_that_was_undone_does_again_what_was_undone_and_has_not_ended() {
    let text = "
name: saga
resume: never
retry: {max_attempts: 1}
steps:
  - {id: plain, run: echo plain >> @DIR@/log}
  - {id: a, run: echo a >> @DIR@/log, undo: {run: echo undo a >> @DIR@/log}}
  - id: pick
    switch: input.kind
    cases: {x: [{id: b, run: echo b >> @DIR@/log, undo: {run: echo undo b >> @DIR@/log}}, {id: c, run: echo c >> @DIR@/log}]}
  - id: twice
    repeat:
      steps:
        - {id: d, run: 'echo d$N >> @DIR@/log', env: {N: '${{ index }}'}, undo: {run: 'echo undo d$N >> @DIR@/log', env: {N: '${{ index }}'}}}
        - {id: e, run: 'echo e$N >> @DIR@/log', env: {N: '${{ index }}'}}
      until: index == 1
      max: 5
  - {id: bad, run: echo bad >> @DIR@/log; test -e @DIR@/there}
on_failure: [{run: echo told >> @DIR@/log}]
finally: [{id: bye, run: echo bye >> @DIR@/log}]
";
    let (db, files) = (Db::new().await, Files::new([text]));
    let _worker = Spec::new(&db, &files).ready().await;
    let run = db.enqueue("saga", r#"{"kind": "x"}"#).await;
    db.reaches(&run, "failed", SOON).await;
    let undone = ["undo d1", "undo d0", "undo b", "undo a", "told", "bye"];
    assert_eq!(files.lines("log")[..9], ["plain", "a", "b", "c", "d0", "e0", "d1", "e1", "bad"]);
    assert_eq!(files.lines("log")[9..], undone);
    stepd(&db, &["retry", &run]).await.is(4).says("SD020");
    stepd(&db, &["fork", &run, "--from", "(end)"]).await.is(3).says("SD017");
    let of = format!("SELECT event FROM stepd.history WHERE run = '{run}' AND key = 'bad' ORDER BY seq");
    assert_eq!(db.all::<String>(of).await, ["step started", "attempt failed", "step failed"]);
    // Still failing, it is undone again: what it did itself.
    let failing = fork(&db, &run, "bad", "").await;
    db.reaches(&failing, "failed", SOON).await;
    assert_eq!(files.lines("log")[15..21], ["a", "b", "d0", "d1", "bad", undone[0]]);
    assert_eq!(files.lines("log")[20..], undone);
    std::fs::write(files.path("there"), "").unwrap();
    for of in [&run, &failing] {
        let before = files.lines("log").len();
        let mended = fork(&db, of, "bad", "").await;
        db.reaches(&mended, "completed", SOON).await;
        assert_eq!(files.lines("log")[before..], ["a", "b", "d0", "d1", "bad", "bye"]);
    }
}
