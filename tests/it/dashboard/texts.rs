//! Whatever anybody has written anywhere is a text and nothing else.

use serde_json::json;

use crate::support::SOON;
use crate::support::hostile::strings;

use super::ground::Ground;

const EVIL: &str = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=2</script>{{7*7}}javascript:alert(1)";

/// As it stands in a YAML text within single quotes.
fn workflow() -> String {
    let evil = EVIL.replace('\'', "''");
    format!(
        "name: evil
input: {{properties: {{v: {{type: string, description: '{evil}'}}}}}}
resume: never
queue: q
steps:
  - {{id: text, set: '{evil}'}}
  - {{id: things, map: ['{evil}'], as: thing, label: thing, steps: [{{id: one, set: '{evil}'}}]}}
  - {{id: ask, approve: '{evil}'}}
  - {{id: call, wait: '{evil}', match: {{k: '{evil}'}}}}
  - {{id: bad, run: 'cat $F >&2; exit 3', env: {{F: '@DIR@/evil'}}, retry: {{max_attempts: 1}}}}
"
    )
}

#[tokio::test]
async fn an_attack_in_every_text_is_shown_as_text() {
    let Some(g) = Ground::new(&[&workflow()]).await else { return };
    std::fs::write(g.files.path("evil"), EVIL).unwrap();
    let quoted = EVIL.replace('\'', "''");
    let worker = g.worker().await;
    let labels = json!({EVIL: EVIL});
    let job = format!(
        "INSERT INTO stepd.jobs (workflow, input, labels, unique_key) VALUES ('evil', '{}', '{}', '{quoted}') RETURNING id::text",
        json!({"v": EVIL}).to_string().replace('\'', "''"),
        labels.to_string().replace('\'', "''")
    );
    let run: String = g.db.one(job).await;
    g.db.exec(format!("INSERT INTO stepd.jobs (workflow, queue, labels) VALUES ('evil', '{quoted}', '{}')", labels))
        .await;
    g.db.exec(format!("SELECT stepd.pause_queue('{quoted}')")).await;
    let later: String = g
        .db
        .one("INSERT INTO stepd.jobs (workflow, run_at) VALUES ('evil', now() + interval '1 day') RETURNING id::text")
        .await;
    g.db.exec(format!("SELECT stepd.cancel('{later}', '{quoted}')")).await;
    g.db.step_reaches(&run, "ask", "waiting", SOON).await;
    let p = &g.page;
    let seen = async |path: &str| {
        p.open(path).await;
        p.sees("onerror").await;
        assert!(p.shows("<img src=x").await, "{path}");
    };
    for path in ["/waiting", "/queues", "/runs", "/workflows/evil"] {
        seen(path).await;
    }
    seen(&format!("/runs/{run}")).await;
    g.db.exec(format!("SELECT stepd.approve('{run}', 'ask', '{quoted}')")).await;
    g.db.step_reaches(&run, "call", "waiting", SOON).await;
    seen("/waiting").await;
    g.db.exec(format!(
        "SELECT stepd.signal('{run}', '{quoted}', '{}')",
        json!({"k": EVIL}).to_string().replace('\'', "''")
    ))
    .await;
    g.db.reaches(&run, "failed", SOON).await;
    for tab in ["history", "data", "logs", "definition"] {
        seen(&format!("/runs/{run}?tab={tab}")).await;
    }
    for step in ["text", "things[0].one", "call", "bad"] {
        p.open(&format!("/runs/{run}?step={step}")).await;
        p.until("document.querySelector('.step-side .state')").await;
        p.until("document.querySelector('.step-side').innerText.includes('onerror')").await;
    }
    p.open(&format!("/runs/{run}?tab=graph")).await;
    seen(&format!("/runs/{later}?tab=history")).await;
    seen(&format!("/compare?a={run}&b={later}")).await;
    for path in ["/", "/analytics?span=1h", "/workers", "/health", "/schedules"] {
        p.open(path).await;
        p.until("document.querySelector('.page').childElementCount > 1").await;
    }
    assert_eq!(p.eval("window.hacked ?? null").await, json!(null));
    assert_eq!(p.eval("document.querySelectorAll('img[onerror], img[src=\"x\"], body script').length").await, 0);
    drop(worker);
    g.is_clean();
}

const ATTACKS: &str = "name: attacks
resume: never
steps:
  - {id: each, map: '${{ input.v }}', as: v, label: v, max_parallel: 50, steps: [{id: it, set: '${{ v }}'}]}
  - {id: says, exec: [sh, -c, 'cat >&2; exit 3'], stdin: \"${{ input.v | join('\\n') }}\", retry: {max_attempts: 1}}
";

/// As a part of a path or a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

#[tokio::test]
async fn every_attack_on_a_page_is_shown_as_text() {
    let Some(g) = Ground::new(&[ATTACKS]).await else { return };
    let worker = g.worker().await;
    let all: Vec<String> = strings("injections.txt", &[]).into_iter().map(|(_, string)| string).collect();
    let on_pages: Vec<String> = strings("injections.txt", &[])
        .into_iter()
        .filter_map(|(group, string)| group.starts_with("dashboard").then_some(string))
        .collect();
    assert!(on_pages.len() >= 40, "{}", on_pages.len());
    let enqueue = "INSERT INTO stepd.jobs (workflow, input, labels, session_id, unique_key) VALUES ('attacks', $1::json, jsonb_build_object('k', $2::text), $2, $2) RETURNING id::text";
    let enqueued = async |v: &[String], text: &str| {
        let id: String = sqlx::query_scalar(enqueue)
            .bind(json!({"v": v}).to_string())
            .bind(text)
            .fetch_one(&g.db.pool)
            .await
            .unwrap();
        id
    };
    let run = enqueued(&all, "<b>all of them</b>").await;
    for text in &on_pages {
        enqueued(std::slice::from_ref(text), text).await;
    }
    g.db.reaches(&run, "failed", SOON).await;
    g.db.all_ended(SOON).await;
    let p = &g.page;
    let looked = async |path: &str| {
        p.open(path).await;
        p.until("document.querySelector('.page')?.childElementCount > 0").await;
        assert_eq!(p.eval("window.hacked ?? null").await, json!(null), "{path}");
        let made = "document.querySelectorAll('img[onerror], svg[onload], iframe, object, embed, base, marquee, math, [onclick], [ontoggle]').length";
        assert_eq!(p.eval(made).await, 0, "{path}");
    };
    looked("/runs?limit=100").await;
    for tab in ["", "?tab=data", "?tab=history", "?tab=logs", "?tab=graph", "?tab=definition", "?step=says"] {
        looked(&format!("/runs/{run}{tab}")).await;
    }
    p.open(&format!("/runs/{run}?tab=data")).await;
    p.sees("onerror").await;
    for text in on_pages.iter().step_by(5) {
        looked(&format!("/runs?workflow={0}", encoded(text))).await;
        looked(&format!("/runs?session={0}", encoded(text))).await;
    }
    drop(worker);
    g.is_clean();
}
