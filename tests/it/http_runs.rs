//! One run over time, and two side by side: by HTTP and on the command line.

use serde_json::{Value, json};

use crate::cli::stepd;
use crate::http::{Ground, is_problem, spec};
use crate::support::{Db, SOON, wait_until};

/// A run of a workflow that has ended, of a map with so many items of two steps; every hundredth item has failed at the second attempt of its second.
pub async fn seeded(db: &Db, workflow: &str, items: i32) -> String {
    let run = uuid::Uuid::now_v7().to_string();
    let definition = format!("(SELECT definition FROM stepd_engine.workflows WHERE name = '{workflow}')");
    db.exec(format!(
        "INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels, created_by, output)
         VALUES ('{run}', 'completed', 1, {definition}, 5, 0, 0, now(), now() + interval '1 s', now() + interval '1 h', '{workflow}', 'default', '{{}}', '{{}}', 'app', '{{}}')"
    ))
    .await;
    db.exec(format!(
        "INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind)
         VALUES ('{run}', 1, 1, now() + interval '1 s', now() + interval '1 h', 1, true, 'completed', 'docs', 'map')"
    ))
    .await;
    db.exec(format!(
        "INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output, error)
         SELECT '{run}', 2 * n + k, 1, now() + (n + k) * interval '10 ms', now() + (n + k + 1) * interval '10 ms', CASE WHEN f THEN 2 ELSE 1 END, true,
             CASE WHEN f THEN 'failed' ELSE 'completed' END::stepd.step_state, format('docs[%s].%s', n, CASE k WHEN 2 THEN 'text' ELSE 'save' END), 'http',
             CASE WHEN NOT f THEN '{{\"ok\":true}}' END, CASE WHEN f THEN '{{\"class\":\"permanent\",\"code\":\"http_404\",\"message\":\"it is gone\"}}' END
         FROM generate_series(0, {items} - 1) n, generate_series(2, 3) k, LATERAL (SELECT k = 3 AND n % 100 = 7 AS f) f"
    ))
    .await;
    db.exec(format!(
        "INSERT INTO stepd_engine.events (run, at, epoch, attempt, n, kind, key, data)
         SELECT run, ended_at - interval '5 ms', 1, 1, seq, 'attempt_failed', key, '{{\"failure\":{{\"class\":\"transient\",\"code\":\"timeout\",\"message\":\"no answer\"}},\"retry_in_ms\":1}}'
         FROM stepd_engine.checkpoints WHERE run = '{run}' AND state = 'failed'"
    ))
    .await;
    run
}

#[tokio::test]
async fn a_run_of_many_steps_is_told_folded_and_unfolded_as_far_as_it_is_looked_at() {
    let g = Ground::new().await;
    let run = seeded(&g.db, "asks", 5_000).await;
    let path = format!("/runs/{run}/timeline");
    let top = g.get(&path).await;
    assert!(top.to_string().len() < 20_000, "ten thousand steps are a few lines");
    assert_eq!((&top["all"], &top["steps"][0]["key"]), (&json!(10_001), &json!("docs")));
    let fold = &top["folds"][0];
    assert_eq!((&fold["path"], &fold["items"], &fold["steps"]), (&json!("docs"), &json!(5_000), &json!(10_000)));
    assert_eq!(fold["states"], json!({"completed": 9_950, "failed": 50}));
    assert_eq!(fold["shapes"]["docs[*].save"], json!({"completed": 4_950, "failed": 50}));
    assert_eq!((&fold["failed_attempts"], &top["events"]), (&json!(50), &json!([])), "they are counted, not listed");
    // What has failed is found first, with its failed attempts.
    let failed = g.get(&format!("{path}?under=docs&state=failed&limit=20")).await;
    let keys: Vec<&str> = failed["steps"].as_array().unwrap().iter().map(|s| s["key"].as_str().unwrap()).collect();
    assert_eq!((keys.len(), &keys[..2], &failed["left"]), (40, &["docs[7].text", "docs[7].save"][..], &json!(30)));
    assert_eq!(
        (failed["steps"][1]["error_code"].as_str(), failed["events"].as_array().unwrap().len()),
        (Some("http_404"), 20)
    );
    // All items, page by page: none is left out, none comes twice.
    let (mut told, mut cursor, mut pages) = (std::collections::BTreeSet::new(), String::new(), 0);
    loop {
        let page = g.get(&format!("{path}?under=docs&limit=1000{cursor}")).await;
        let steps = page["steps"].as_array().unwrap().iter().map(|s| s["key"].as_str().unwrap().to_owned());
        let folded = page["folds"].as_array().unwrap().iter().map(|f| f["steps"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(folded, 0, "an item of two steps comes whole");
        for key in steps {
            assert!(told.insert(key.clone()), "{key} comes twice");
        }
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((told.len(), pages), (10_000, 5));
    // The steps themselves have pages, too.
    let (mut told, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = g.get(&format!("/runs/{run}/steps?limit=900&outputs=true{cursor}")).await;
        told.extend(page["steps"].as_array().unwrap().iter().map(|s| s["key"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let in_order = format!("SELECT array_agg(key ORDER BY seq, key) FROM stepd.steps WHERE run = '{run}'");
    assert_eq!(told, g.db.one::<Vec<String>>(in_order).await);
    assert_eq!(g.get(&format!("/runs/{run}/steps?state=failed")).await["steps"].as_array().unwrap().len(), 50);
    let wrong = async |path: &str| g.client.get(format!("{}/api/v1/runs/{run}{path}", g.site)).send().await.unwrap();
    is_problem(wrong("/steps?limit=1001").await, 400, "1 to 1000").await;
    is_problem(wrong("/steps?state=done").await, 400, "done").await;
    is_problem(wrong("/timeline?cursor=x").await, 400, "cursor").await;
    is_problem(wrong("/timeline?state=held").await, 400, "held").await;
    let nobody = uuid::Uuid::now_v7();
    let none = g.client.get(format!("{}/api/v1/runs/{nobody}/timeline", g.site)).send().await.unwrap();
    is_problem(none, 404, "there is no run").await;
}

#[tokio::test]
async fn the_time_of_a_run_that_was_killed_and_waited_adds_up_and_agrees_with_its_rows() {
    let mut g = Ground::new().await;
    let flow = "name: long\nsteps:\n  - {id: one, run: 'touch @DIR@/begun; until [ -e @DIR@/go ]; do sleep 0.05; done'}\n  - {id: ok, approve: 'Go on?'}\n  - {id: two, set: 2}\n";
    let flow = flow.replace("@DIR@", &g.files.path("").display().to_string());
    std::fs::write(g.files.workflows().join("long.yaml"), flow).unwrap();
    g.worker.hup();
    g.worker.logs("\"reloaded\"").await;
    let run = g.enqueued("long", json!({})).await;
    wait_until("the step has begun", SOON, async || g.files.path("begun").exists()).await;
    g.worker.kill9();
    let mut heir = spec(&g.db, &g.files).ready().await;
    g.site = heir.site().await;
    let resumed = format!("SELECT count(*) FROM stepd.history WHERE run = '{run}' AND event = 'resumed'");
    wait_until("another has it", SOON, async || g.db.count(resumed.clone()).await > 0).await;
    std::fs::write(g.files.path("go"), "").unwrap();
    g.db.step_reaches(&run, "ok", "waiting", SOON).await;
    g.db.exec(format!("SELECT stepd.approve('{run}')")).await;
    g.db.reaches(&run, "completed", SOON).await;
    let told = g.get(&format!("/runs/{run}/timeline")).await;
    let sum = |word: &str| told["sums"][format!("{word}_us")].as_i64().unwrap();
    let parts = ["queued", "working", "waiting", "lost", "resuming", "paused", "between"];
    assert_eq!(parts.iter().map(|part| sum(part)).sum::<i64>(), sum("total"), "{}", told["sums"]);
    let micros = async |sql: &str| g.db.count(sql.replace("@R", &run)).await;
    let whole = "SELECT (extract(epoch FROM ended_at - created_at) * 1000000)::bigint FROM stepd.runs WHERE id = '@R'";
    assert_eq!(sum("total"), micros(whole).await);
    let queued =
        "SELECT (extract(epoch FROM started_at - created_at) * 1000000)::bigint FROM stepd.runs WHERE id = '@R'";
    assert_eq!(sum("queued"), micros(queued).await);
    let lost = "SELECT (extract(epoch FROM (SELECT min(at) FROM stepd.history r WHERE r.run = '@R' AND r.event = 'resumed')
            - (SELECT at FROM stepd.history c WHERE c.run = '@R' AND c.event IN ('crashed', 'taken over'))) * 1000000)::bigint";
    assert_eq!(sum("lost"), micros(lost).await);
    let waited = "SELECT (extract(epoch FROM ended_at - started_at) * 1000000)::bigint FROM stepd.steps WHERE run = '@R' AND key = 'ok'";
    assert_eq!(sum("waiting"), micros(waited).await);
    assert!(sum("working") > 0 && sum("resuming") == 0 && sum("paused") == 0);
}

#[tokio::test]
async fn two_runs_are_compared_by_the_first_step_that_differs_and_the_changed_paths() {
    let g = Ground::new().await;
    let first = g.enqueued("asks", json!({"n": 1})).await;
    g.db.reaches(&first, "waiting", SOON).await;
    g.post("ops", &format!("/runs/{first}/answer"), json!({"approved": true})).await;
    g.db.reaches(&first, "completed", SOON).await;
    // A step is replayed with another input, and what follows it.
    let done = stepd(&g.db, &["replay", &first, "--step", "one", "--set", "n=5"]).await.is(0);
    let second = done.line();
    g.db.reaches(&second, "waiting", SOON).await;
    let ask = format!("/compare?a={first}&b={second}");
    assert_eq!(g.get(&ask).await["first"], "one");
    assert_eq!(g.get(&ask).await["steps"][2]["differs"], json!(["absent"]), "the second waits before it");
    g.post("ops", &format!("/runs/{second}/answer"), json!({"approved": true})).await;
    g.db.reaches(&second, "completed", SOON).await;
    // What the models of a step have cost.
    for (run, cost) in [(&first, "0.25"), (&second, "0.75")] {
        g.db.exec(format!(
            "UPDATE stepd_engine.checkpoints SET usage = '{{\"calls\":1,\"tokens_in\":1000,\"tokens_out\":500,\"cost\":{cost}}}' WHERE run = '{run}' AND key = 'one'"
        ))
        .await;
    }
    let told = g.get(&ask).await;
    assert_eq!((&told["first"], &told["differing"]), (&json!("one"), &json!(3)), "{told:#}");
    assert_eq!(told["input"], json!([{"path": "n", "a": "1", "b": "5"}]));
    assert_eq!(told["steps"][0]["changes"], json!([{"path": "output", "a": "1", "b": "5"}]));
    assert_eq!((&told["a"]["cost"], &told["b"]["cost"]), (&json!(0.25), &json!(0.75)));
    assert_eq!((&told["steps"][0]["a"]["cost"], &told["steps"][0]["b"]["tokens_in"]), (&json!(0.25), &json!(1000)));
    assert!(told["steps"][0]["a"]["took_ms"].is_number() && told["a"]["took_ms"].is_number());
    assert_eq!(told["a"]["definition"], told["b"]["definition"]);
    let same = g.get(&format!("/compare?a={first}&b={first}")).await;
    assert_eq!((&same["first"], &same["differing"], &same["input"]), (&Value::Null, &json!(0), &json!([])));
    // The same on the command line.
    let text = stepd(&g.db, &["diff", &first, &second]).await.is(0).out;
    let text = anstream::adapter::strip_str(&text).to_string();
    for words in ["first difference  one, of 3 steps that differ", "n  1 → 5", "output  1 → 5", "0.2500", "0.7500"]
    {
        assert!(text.contains(words), "`{words}` is not in\n{text}");
    }
    assert_eq!(stepd(&g.db, &["diff", &first, &second, "-o", "id"]).await.is(0).line(), "one");
    let document: Value =
        serde_json::from_str(&stepd(&g.db, &["diff", &first, &second, "-o", "json"]).await.is(0).out).unwrap();
    assert_eq!(document["steps"][0]["changes"], told["steps"][0]["changes"]);
    assert!(stepd(&g.db, &["diff", &first, &first]).await.is(0).out.contains("every step went alike"));
    let nobody = uuid::Uuid::now_v7().to_string();
    stepd(&g.db, &["diff", &first, &nobody]).await.is(3).says(&nobody);
    let none = g.client.get(format!("{}/api/v1/compare?a={nobody}&b={first}", g.site)).send().await.unwrap();
    is_problem(none, 404, &nobody).await;
}

#[tokio::test]
async fn a_large_run_is_compared_with_another_and_what_differs_comes_first() {
    let g = Ground::new().await;
    let (one, two) = (seeded(&g.db, "asks", 2_000).await, seeded(&g.db, "asks", 2_000).await);
    g.db.exec(format!(
        "UPDATE stepd_engine.checkpoints SET output = '{{\"ok\":false,\"why\":\"late\"}}' WHERE run = '{two}' AND key = 'docs[1900].text'"
    ))
    .await;
    // Written otherwise, and yet the same.
    g.db.exec(format!(
        "UPDATE stepd_engine.checkpoints SET output = '{{ \"ok\": true }}' WHERE run = '{two}' AND key = 'docs[3].text'"
    ))
    .await;
    let told = g.get(&format!("/compare?a={one}&b={two}")).await;
    assert_eq!((&told["first"], &told["differing"]), (&json!("docs[1900].text"), &json!(1)));
    assert_eq!((told["steps"].as_array().unwrap().len(), &told["left_out"]), (1_000, &json!(3_001)));
    let differs = told["steps"].as_array().unwrap().iter().find(|s| s["key"] == "docs[1900].text").unwrap();
    assert_eq!(
        differs["changes"],
        json!([{"path": "output.ok", "a": "true", "b": "false"}, {"path": "output.why", "a": null, "b": "\"late\""}])
    );
}

#[tokio::test]
async fn a_step_is_replayed_with_an_edited_input_in_a_run_that_says_where_it_comes_from() {
    let g = Ground::new().await;
    let run = g.enqueued("asks", json!({"n": 1})).await;
    g.db.reaches(&run, "waiting", SOON).await;
    g.post("ops", &format!("/runs/{run}/answer"), json!({"approved": true})).await;
    g.db.reaches(&run, "completed", SOON).await;
    let done = stepd(&g.db, &["replay", &run, "--step", "two", "--set", "input.n=5", "-o", "json"]).await.is(0);
    let told: Value = serde_json::from_str(&done.out).unwrap();
    let new = told["id"].as_str().unwrap();
    assert_eq!((&told["forked_from"], &told["from_step"]), (&json!(run), &json!("two")));
    g.db.reaches(new, "completed", SOON).await;
    let now = g.get(&format!("/runs/{new}")).await;
    assert_eq!((&now["input"], &now["forked_from"]), (&json!({"n": 5}), &json!(run)));
    // Only the step ran anew; what had ended before it kept its result.
    let steps = g.get(&format!("/runs/{new}/steps?outputs=true")).await;
    let ran: Vec<_> = steps["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["key"].as_str().unwrap(), s["attempts"].as_i64().unwrap()))
        .collect();
    assert_eq!(ran, [("one", 0), ("ok", 0), ("two", 1)]);
    let marked = format!(
        "SELECT count(*) FROM stepd.history WHERE run = '{new}' AND event = 'forked' AND data ->> 'from' = '{run}'"
    );
    assert_eq!(g.db.count(marked).await, 1);
    assert_eq!(g.get(&format!("/runs/{run}")).await["input"], json!({"n": 1}), "the first stays as it was");
    // One step alone: what came after it keeps its result.
    let alone = stepd(&g.db, &["replay", &run, "--step", "one", "--set", "n=7", "--alone"]).await.is(0).line();
    g.db.reaches(&alone, "completed", SOON).await;
    let steps = g.get(&format!("/runs/{alone}/steps?outputs=true")).await;
    let mut told: Vec<_> = steps["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["key"].to_string(), s["output"].clone(), s["attempts"].clone()))
        .collect();
    told.sort_by_key(|(key, ..)| key.clone());
    assert_eq!(told[1], ("\"one\"".to_owned(), json!(7), json!(1)));
    assert_eq!(told[2], ("\"two\"".to_owned(), json!(2), json!(0)));
    stepd(&g.db, &["replay", &run, "--step", "two", "--set", "n"]).await.is(2).says("PATH=JSON");
    stepd(&g.db, &["replay", &run, "--step", "two", "--set", "n.x=1"]).await.is(2).says("n holds no x");
    stepd(&g.db, &["replay", &run, "--step", "none", "--set", "n=1"]).await.is(3).says("none");
}
