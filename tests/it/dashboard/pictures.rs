//! The pictures in `docs/screenshots`: made from real runs, when asked for (`STEPD_SCREENSHOTS=1`), so that they stay true. With
//! `STEPD_SCREENSHOTS=all` every page is pictured too, in both themes and three sizes, in the target's folder for temporary files: to look at.

use std::path::Path;

use crate::http_runs::seeded;
use crate::support::SOON;

use super::ground::Ground;

const ORDER: &str = "name: fulfil_order
input: {required: [order], properties: {order: {type: integer}, express: {type: boolean}}}
retry: {max_attempts: 4, initial: 300ms}
steps:
  - {id: order, run: sleep 0.3}
  - {id: reserve, run: sleep 0.5}
  - {id: charge, run: 'sleep 0.4; n=$(cat @DIR@/tries-$N 2>/dev/null || echo 0); echo $((n+1)) > @DIR@/tries-$N; if [ $n -lt 2 ]; then echo \"503 from the bank\" >&2; exit 3; fi', env: {N: '${{ input.order }}'}}
  - id: parcels
    map: ${{ range(24) | list }}
    as: parcel
    label: \"'parcel ' ~ parcel\"
    max_parallel: 4
    steps: [{id: label, run: sleep 0.1}, {id: pack, run: sleep 0.2}]
  - {id: release, approve: 'Ship order ${{ input.order }}?', timeout: 2d}
  - {id: ship, run: sleep 0.2}
";
const ENCODE: &str = "name: render_video
steps:
  - {id: probe, run: sleep 0.4}
  - {id: encode, run: 'touch @DIR@/encoding; sleep 4'}
  - {id: thumbnails, map: [1, 2, 3, 4], max_parallel: 2, steps: [{id: shot, run: sleep 0.7}]}
  - {id: upload, run: sleep 0.5}
";
const IMPORT: &str = "name: import_feed
resume: never
steps: [{id: fetch, run: sleep 0.1}, {id: parse, run: 'echo \"line 12, unexpected end of document\" >&2; exit 65', retry: {max_attempts: 2, initial: 100ms}}]
";
const NIGHTLY: &str = "name: nightly_report
schedule: {cron: '0 3 * * *', timezone: Europe/Berlin}
steps: [{id: collect, run: sleep 0.2}, {id: left, needs: [collect], run: sleep 0.3}, {id: right, needs: [collect], run: sleep 0.2}, {id: send, needs: [left, right], set: sent}]
";
const HELD: &str = "name: sync_account
concurrency: {key: input.account, limit: 1}
steps: [{id: sync, run: sleep 60}]
";

#[tokio::test]
async fn the_pictures_of_the_docs_are_made_of_real_runs() {
    if std::env::var_os("STEPD_SCREENSHOTS").is_none() {
        return;
    }
    let g = Ground::new(&[ORDER, ENCODE, IMPORT, NIGHTLY, HELD]).await.expect("a browser");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    let mut one = g.worker().await;
    let video = g.db.enqueue("render_video", "{}").await;
    crate::support::wait_until("it encodes", SOON, async || g.files.path("encoding").exists()).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    one.kill9();
    let _two = g.worker().await;
    let mut orders = Vec::new();
    for (order, customer) in [(4711, "acme"), (4712, "globex"), (4713, "initech")] {
        let insert = format!(
            "INSERT INTO stepd.jobs (workflow, input, labels) VALUES ('fulfil_order', '{{\"order\": {order}}}', '{{\"customer\": \"{customer}\"}}') RETURNING id::text"
        );
        orders.push(g.db.one::<String>(insert).await);
    }
    for _ in 0..3 {
        g.db.enqueue("import_feed", "{}").await;
        g.db.enqueue("nightly_report", "{}").await;
        g.db.enqueue("sync_account", "{\"account\": 7}").await;
    }
    g.db.exec("INSERT INTO stepd.jobs (workflow, run_at) VALUES ('nightly_report', now() + interval '3 hours')").await;
    g.db.reaches(&video, "completed", SOON).await;
    for order in &orders {
        g.db.step_reaches(order, "release", "waiting", SOON).await;
    }
    g.db.exec(format!("SELECT stepd.approve('{}', 'release', 'address checked')", orders[0])).await;
    g.db.exec(format!("SELECT stepd.fork('{}', 'release', '{{\"order\": 4720}}')", orders[0])).await;
    g.db.reaches(&orders[0], "completed", SOON).await;
    let many = seeded(&g.db, "import_feed", 3_000).await;
    let p = &g.page;
    p.size(1280, 800).await;
    p.theme("light").await;
    p.open("/").await;
    g.sign_in("ops").await;
    let (video, many, order) =
        (format!("/runs/{video}"), format!("/runs/{many}"), format!("/runs/{}?step=charge", orders[1]));
    let compare = format!("/compare?a={}&b={}", orders[0], orders[1]);
    for (name, theme, path) in [
        ("overview", "light", "/"),
        ("runs", "dark", "/runs"),
        ("resume", "light", video.as_str()),
        ("attempts", "dark", order.as_str()),
        ("compare", "light", compare.as_str()),
        ("waiting", "light", "/waiting"),
    ] {
        p.theme(theme).await;
        p.open(path).await;
        p.until("document.querySelector('.page').innerText.length > 100 && !document.querySelector('.message')").await;
        p.until("document.querySelector('.live').innerText.includes('Live') && !document.querySelector('.page').innerText.includes('Loading')").await;
        let file = folder.join(format!("{name}.png"));
        p.picture(&file).await;
        assert!(std::fs::metadata(&file).unwrap().len() < 150 << 10, "{name} is too large for the repository");
    }
    if std::env::var_os("STEPD_SCREENSHOTS").is_some_and(|what| what == "all") {
        all(&g, &[&video, &many, &order, &compare]).await;
    }
}

/// Every page, and these, in both themes and three sizes.
async fn all(g: &Ground, more: &[&str]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&folder).unwrap();
    let pages = [
        "/",
        "/runs",
        "/analytics?span=1h",
        "/workflows",
        "/workflows/fulfil_order",
        "/schedules",
        "/queues",
        "/workers",
        "/waiting",
        "/health",
    ];
    let tabs = ["?tab=graph", "?tab=history", "?tab=data", "?tab=logs"].map(|tab| format!("{}{tab}", more[1]));
    let p = &g.page;
    for path in pages.iter().chain(more).copied().chain(tabs.iter().map(String::as_str)) {
        for (theme, width, height) in [("light", 1280, 900), ("dark", 820, 1100), ("light", 390, 844)] {
            p.size(width, height).await;
            p.theme(theme).await;
            p.open(path).await;
            p.until("document.querySelector('.page').innerText.length > 60 && !document.querySelector('.message')")
                .await;
            p.until("!document.querySelector('.page').innerText.includes('Loading')").await;
            if path.starts_with(more[1]) && !path.contains("tab=") {
                p.click("[id=\"tl-docs\"] .tl-fold").await;
                p.until("document.querySelectorAll('.tl-row').length > 5").await;
            }
            let name: String = path.chars().filter(|c| c.is_ascii_alphanumeric()).take(40).collect();
            p.picture(&folder.join(format!("{name}-{width}-{theme}.png"))).await;
        }
    }
}
