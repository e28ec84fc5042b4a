//! What is told of runs, by the commands and by both APIs: attempts, what was known at a step, locks, pages, figures, retries, pauses.

use serde_json::{Value, json};

use crate::cli::stepd;
use crate::http::{Ground, is_problem};
use crate::support::{SOON, wait_until};

/// Fails twice, then does not.
const FLAKY: &str = "name: flaky\nsteps:\n  - {id: one, set: 1}\n  - id: two\n    run: 'echo x >> @DIR@/tries; test $(wc -l < @DIR@/tries) -ge 3 || { echo \"not yet\" >&2; exit 7; }; echo 2'\n    retry: {max_attempts: 3, backoff: constant, initial: 10ms}\n";
/// Works until it is told that it may end.
const SLOW: &str = "name: slow\nconcurrency: {key: input.who, limit: 5}\nsteps:\n  - id: work\n    run: 'echo began >> @DIR@/effects; until test -e @DIR@/go; do sleep 0.02; done; echo done >> @DIR@/effects'\n  - {id: after, set: 1}\n";

async fn ground(definitions: &[&str]) -> Ground {
    let mut g = Ground::new().await;
    for (n, text) in definitions.iter().enumerate() {
        g.files.write(&format!("more{n}.yaml"), text);
    }
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    g
}

async fn told(g: &Ground, args: &[&str]) -> Value {
    let done = stepd(&g.db, &[args, &["-o", "json"]].concat()).await.is(0);
    serde_json::from_str(&done.out).unwrap()
}

#[tokio::test]
async fn each_attempt_is_a_row_with_the_class_the_code_and_the_words_of_its_failure() {
    let g = ground(&[FLAKY]).await;
    let run = g.enqueued("flaky", json!({})).await;
    g.db.reaches(&run, "completed", SOON).await;
    let by_http = g.get(&format!("/runs/{run}/attempts")).await["attempts"].clone();
    let by_command = told(&g, &["show", &run, "--attempts"]).await;
    assert_eq!(by_http, by_command, "both tell the same");
    let rows: Vec<_> = by_command
        .as_array()
        .unwrap()
        .iter()
        .map(|a| json!([a["key"], a["attempt"], a["state"], a["error_class"], a["error_code"]]))
        .collect();
    let failed = |n: u32| json!(["two", n, "failed", "transient", "exit_7"]);
    let wanted =
        [json!(["one", 1, "completed", null, null]), failed(1), failed(2), json!(["two", 3, "completed", null, null])];
    assert_eq!(rows, wanted);
    let first = &by_command[1];
    assert!(first["error_message"].as_str().unwrap().contains("not yet"), "{first}");
    assert!(first["started_at"].is_string() && first["ended_at"].is_string() && first["retry_in_ms"].is_i64());
    let table = stepd(&g.db, &["show", &run, "--attempts"]).await.is(0).out;
    assert!(table.lines().filter(|l| l.contains("exit_7") && l.contains("transient")).count() == 2, "{table}");
    stepd(&g.db, &["show", &uuid::Uuid::now_v7().to_string(), "--attempts"]).await.is(3);
}

#[tokio::test]
async fn what_a_run_knew_at_a_step_is_told_and_nothing_of_later() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 41})).await;
    g.db.step_reaches(&run, "ok", "waiting", SOON).await;
    let at = async |step: &str| g.get(&format!("/runs/{run}/state?key={step}")).await;
    let known = json!({"input": {"n": 41}, "steps": {"one": 41}});
    let one = at("one").await;
    assert_eq!((&one["before"], &one["after"]), (&json!({"input": {"n": 41}, "steps": {}}), &known));
    let ok = at("ok").await;
    assert_eq!((&ok["before"], &ok["after"]), (&known, &Value::Null), "it has not ended");
    let none = g.client.get(format!("{}/api/v1/runs/{run}/state?key=two", g.site)).send().await.unwrap();
    is_problem(none, 404, "has no step `two`").await;
    g.post("ops", &format!("/runs/{run}/answer"), json!({"approved": true})).await;
    g.db.reaches(&run, "completed", SOON).await;
    assert_eq!(at("one").await, one, "what came later has changed nothing");
    assert_eq!(at("two").await["after"]["steps"]["two"], 42);
    let by_command = told(&g, &["show", &run, "--step", "ok"]).await;
    assert_eq!((&by_command["before"], &by_command["state"]), (&known, &json!("completed")));
    assert_eq!(by_command["attempts"][0]["attempt"], 1);
    let drawn = stepd(&g.db, &["show", &run, "--step", "ok"]).await.is(0).out;
    assert!(drawn.contains("before\n{") && drawn.contains("after\n{") && drawn.contains("TRY"), "{drawn}");
    stepd(&g.db, &["show", &run, "--step", "none"]).await.is(3).says("has no step `none`");
}

#[tokio::test]
async fn a_replay_names_the_run_it_comes_from_and_the_step_it_begins_with() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    g.db.reaches(&run, "waiting", SOON).await;
    g.post("ops", &format!("/runs/{run}/answer"), json!({"approved": true})).await;
    g.db.reaches(&run, "completed", SOON).await;
    let before = told(&g, &["show", &run]).await;
    let new = stepd(&g.db, &["fork", &run, "--from", "ok", "-o", "id"]).await.is(0).line();
    g.db.reaches(&new, "waiting", SOON).await;
    let link = |told: &Value| json!([told["forked_from"], told["from_step"]]);
    assert_eq!(link(&told(&g, &["show", &new]).await), json!([run, "ok"]));
    assert_eq!(link(&g.get(&format!("/runs/{new}")).await), json!([run, "ok"]));
    assert_eq!(link(&g.get(&format!("/runs/{run}")).await), json!([null, null]));
    let table = stepd(&g.db, &["show", &new]).await.is(0).out;
    assert!(table.contains(&format!("from {run}, from step ok on")), "{table}");
    let keeps = |v: &Value| json!([v["state"], v["steps"], v["output"], v["history"]]);
    assert_eq!(keeps(&told(&g, &["show", &run]).await), keeps(&before), "the first is as it was");
}

#[tokio::test]
async fn a_list_is_narrowed_down_and_turned_over_page_by_page() {
    let g = Ground::new().await;
    for _ in 0..3 {
        let run = g.enqueued("fails", json!({})).await;
        g.db.reaches(&run, "failed", SOON).await;
    }
    let waits = g.enqueued("asks", json!({"n": 1})).await;
    g.db.reaches(&waits, "waiting", SOON).await;
    let ids = async |args: &[&str]| -> Vec<String> {
        let list = told(&g, &[&["ls"], args].concat()).await;
        list.as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect()
    };
    let failed = ids(&["--state", "failed", "--since", "1h"]).await;
    assert_eq!(failed.len(), 3);
    assert_eq!(ids(&["--workflow", "asks", "--since", "1h"]).await, std::slice::from_ref(&waits));
    assert_eq!(ids(&["--state", "failed", "--workflow", "asks"]).await, [""; 0]);
    assert_eq!(ids(&["--since", "2100-01-01"]).await, [""; 0]);
    let first = ids(&["--limit", "2"]).await;
    assert_eq!(first, [waits.clone(), failed[0].clone()], "the newest first");
    assert_eq!(ids(&["--limit", "2", "--before", &first[1]]).await, failed[1..]);
    assert_eq!(ids(&["--before", &failed[2]]).await, [""; 0]);
    let by_http = g.get("/runs?state=failed&limit=2").await;
    let next = by_http["next"].as_str().unwrap();
    assert_eq!((by_http["runs"][1]["id"].as_str(), next), (Some(failed[1].as_str()), failed[1].as_str()));
}

#[tokio::test]
async fn the_locks_that_are_held_are_listed_with_who_holds_them_and_none_when_none_is() {
    let g = ground(&[SLOW]).await;
    let mut runs = Vec::new();
    for who in ["a", "b", "b"] {
        let run = g.enqueued("slow", json!({"who": who})).await;
        g.db.step_reaches(&run, "work", "running", SOON).await;
        runs.push(run);
    }
    runs.sort();
    let locks = async |kind: &str| g.get(&format!("/locks{kind}")).await;
    let leases = locks("?kind=lease").await;
    let mut held: Vec<&str> = leases["locks"].as_array().unwrap().iter().map(|l| l["run"].as_str().unwrap()).collect();
    held.sort_unstable();
    assert_eq!((&leases["total"], held), (&json!(3), runs.iter().map(String::as_str).collect()));
    let one = &leases["locks"][0];
    let holder = one["holder"].as_str().unwrap();
    assert!(holder.ends_with(&format!(":{}", g.worker.pid())), "the worker, as host:pid: {one}");
    assert!(one["expires_at"].is_string() && one["epoch"] == 1 && one["worker"].is_string(), "{one}");
    let keys = locks("?kind=key").await;
    let names: Vec<&str> = keys["locks"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names.iter().filter(|n| **n == "slow b").count(), 2, "{keys}");
    assert_eq!(locks("").await["total"], 6);
    is_problem(g.client.get(format!("{}/api/v1/locks?kind=all", g.site)).send().await.unwrap(), 400, "`lease`").await;
    let older: Value = g.client.get(format!("{}/api/locks", g.site)).send().await.unwrap().json().await.unwrap();
    assert_eq!((&older["total"], older["locks"].as_array().unwrap().len()), (&json!(3), 3));
    assert_eq!(older["locks"][0]["locked_by"], holder);
    let listed = stepd(&g.db, &["lock", "ls", "--kind", "lease", "-o", "id"]).await.is(0).out;
    assert_eq!(listed.lines().count(), 3);
    let table = stepd(&g.db, &["lock", "ls"]).await.is(0).out;
    assert!(table.contains("slow b") && table.contains(holder), "{table}");
    std::fs::write(g.files.path("go"), "").unwrap();
    for run in &runs {
        g.db.reaches(run, "completed", SOON).await;
    }
    assert_eq!(locks("").await, json!({"locks": [], "total": 0}));
    stepd(&g.db, &["lock", "ls"]).await.is(0).says("no locks");
}

#[tokio::test]
async fn the_figures_of_a_workflow_are_told_by_one_command() {
    let g = ground(&["name: quick\nsteps: [{id: a, set: 1}]\n"]).await;
    for _ in 0..2 {
        let run = g.enqueued("fails", json!({})).await;
        g.db.reaches(&run, "failed", SOON).await;
    }
    let run = g.enqueued("quick", json!({})).await;
    g.db.reaches(&run, "completed", SOON).await;
    let stats = async |args: &[&str]| told(&g, &[&["stats"], args].concat()).await;
    wait_until("the ends are counted", SOON, async || {
        stats(&["fails"]).await[0]["runs"] == 2 && stats(&["quick"]).await[0]["runs"] == 1
    })
    .await;
    let all = stats(&[]).await;
    let row = |f: &Value| json!([f["workflow"], f["runs"], f["completed"], f["failed"], f["success_rate"]]);
    assert_eq!(row(&all[0]), json!(["fails", 2, 0, 2, 0.0]), "the most first; none of them succeeded");
    assert_eq!(row(&all[1]), json!(["quick", 1, 1, 0, 1.0]));
    assert!(all[1]["avg_ms"].is_i64() && all[1]["p95_ms"].is_i64(), "{all}");
    assert_eq!(stats(&["--until", "2000-01-01"]).await, json!([]));
    assert_eq!(stats(&["none"]).await, json!([]));
    let table = stepd(&g.db, &["stats", "--since", "7d"]).await.is(0).out;
    assert!(table.contains("fails") && table.contains("0.0 %") && table.contains("100.0 %"), "{table}");
}

#[tokio::test]
async fn a_failed_run_is_taken_up_again_in_place_by_the_command_and_by_the_api() {
    let flow = "name: mended\nresume: never\nsteps:\n  - {id: one, run: 'echo one >> @DIR@/effects'}\n  - {id: two, run: 'echo two >> @DIR@/effects; test -e @DIR@/mended', retry: {max_attempts: 1}}\n  - {id: three, run: 'echo three >> @DIR@/effects'}\n";
    let g = ground(&[flow]).await;
    let run = g.enqueued("mended", json!({})).await;
    g.db.reaches(&run, "failed", SOON).await;
    assert_eq!(stepd(&g.db, &["retry", &run]).await.is(0).out.split_whitespace().next(), Some(run.as_str()));
    wait_until("it has failed anew", SOON, async || g.db.state(&run).await == "failed" && files(&g)["two"] == 2).await;
    std::fs::write(g.files.path("mended"), "").unwrap();
    assert!(g.post("ops", &format!("/runs/{run}/retry"), json!({})).await.status().is_success());
    g.db.reaches(&run, "completed", SOON).await;
    let counts = files(&g);
    assert_eq!(
        (counts["one"], counts["two"], counts["three"]),
        (1, 3, 1),
        "from the failed step on, and it alone again"
    );
    let attempts = g.get(&format!("/runs/{run}/attempts")).await["attempts"].clone();
    let of_two: Vec<&Value> = attempts.as_array().unwrap().iter().filter(|a| a["key"] == "two").collect();
    assert_eq!(of_two.len(), 3, "no attempt is forgotten: {attempts}");
    assert_eq!(g.db.count("SELECT count(*) FROM stepd.runs WHERE workflow = 'mended'").await, 1);
}

fn files(g: &Ground) -> std::collections::BTreeMap<String, usize> {
    g.files.counts("effects")
}

#[tokio::test]
async fn a_pause_that_does_not_wait_breaks_the_step_off_and_after_the_unpause_it_runs_again() {
    let g = ground(&[SLOW]).await;
    let run = g.enqueued("slow", json!({"who": "a"})).await;
    g.db.step_reaches(&run, "work", "running", SOON).await;
    let done = stepd(&g.db, &["pause", &run]).await.is(0);
    assert!(done.out.contains("the step that runs now ends first"), "{}", done.out);
    let done = stepd(&g.db, &["pause", &run, "--now"]).await.is(0);
    assert!(done.out.contains("the step that runs now is broken off"), "{}", done.out);
    // Nobody has let the step end.
    g.db.reaches(&run, "paused", SOON).await;
    assert_eq!(g.files.lines("effects"), ["began"]);
    let left = format!("SELECT count(*) FROM stepd.locks WHERE run = '{run}'");
    assert_eq!(g.db.count(left).await, 0, "it holds nothing");
    std::fs::write(g.files.path("go"), "").unwrap();
    assert!(g.post("ops", &format!("/runs/{run}/unpause"), json!({})).await.status().is_success());
    g.db.reaches(&run, "completed", SOON).await;
    assert_eq!(g.files.lines("effects"), ["began", "began", "done"], "its step began again, and ended once");
    let trail: String = g
        .db
        .one(format!("SELECT string_agg(event, ', ' ORDER BY seq) FROM stepd.history WHERE run = '{run}' AND event LIKE '%pause%'"))
        .await;
    assert_eq!(trail, "pause requested, pause requested, paused, unpaused");
    assert_eq!(g.db.count(format!("SELECT crashes::bigint FROM stepd.runs WHERE id = '{run}'")).await, 0);
}

#[tokio::test]
async fn a_pause_now_goes_by_on_interrupt_works_by_http_and_makes_sense_with_a_pause_alone() {
    let flow = "name: once\nresume: never\nsteps:\n  - {id: work, run: 'until test -e @DIR@/go; do sleep 0.02; done', on_interrupt: fail}\n";
    let g = ground(&[flow]).await;
    let run = g.enqueued("once", json!({})).await;
    g.db.step_reaches(&run, "work", "running", SOON).await;
    is_problem(g.post("ops", &format!("/runs/{run}/cancel"), json!({"now": true})).await, 400, "`now` goes with pause")
        .await;
    let done: Value = g.post("ops", &format!("/runs/{run}/pause"), json!({"now": true})).await.json().await.unwrap();
    assert_eq!(done["result"], "requested");
    g.db.reaches(&run, "paused", SOON).await;
    g.post("ops", &format!("/runs/{run}/unpause"), json!({})).await;
    g.db.reaches(&run, "failed", SOON).await;
    let code: String = g.db.one(format!("SELECT error_code FROM stepd.runs WHERE id = '{run}'")).await;
    assert_eq!(code, "interrupted", "its author said that it must not be begun twice");
    is_problem(g.post("ops", &format!("/runs/{run}/pause"), json!({"now": true})).await, 409, "already ended").await;
}

#[tokio::test]
async fn the_history_of_a_run_is_written_to_the_archive_before_it_is_pruned() {
    let g = Ground::new().await;
    let (old, young) = (g.enqueued("fails", json!({})).await, g.enqueued("asks", json!({"n": 1})).await);
    g.db.reaches(&old, "failed", SOON).await;
    g.db.reaches(&young, "waiting", SOON).await;
    let folder = g.files.path("archive");
    std::fs::create_dir(&folder).unwrap();
    let to = folder.display().to_string();
    stepd(&g.db, &["prune", "--older-than", "90d", "--archive", &to, "--yes"]).await.is(0).says("0 runs removed");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "what is younger stays, and nothing is written");
    // As if it had been enqueued, and had ended, three months ago.
    let aged = format!(
        "UPDATE stepd_engine.ended SET id = stepd_engine.first_id(now() - interval '91 days'), ended_at = ended_at - interval '91 days' WHERE id = '{old}'"
    );
    g.db.exec(aged).await;
    let old: String = g.db.one("SELECT id::text FROM stepd_engine.ended").await;
    stepd(&g.db, &["prune", "--older-than", "90d", "--archive", &to, "--dry-run"])
        .await
        .is(0)
        .says("1 run would be removed");
    assert_eq!(g.db.count(format!("SELECT count(*) FROM stepd.runs WHERE id = '{old}'")).await, 1);
    stepd(&g.db, &["prune", "--older-than", "90d", "--archive", &to, "--yes"]).await.is(0).says("1 run removed");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let lines = std::fs::read_to_string(file).unwrap();
    let kept: Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!((&kept["run"]["id"], lines.lines().count()), (&json!(old), 1));
    assert_eq!(g.db.count(format!("SELECT count(*) FROM stepd.runs WHERE id IN ('{old}', '{young}')")).await, 1);
    is_problem(g.client.get(format!("{}/api/v1/runs/{old}", g.site)).send().await.unwrap(), 404, "no run").await;
}
