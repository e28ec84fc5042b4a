//! A run of many steps opens as one of ten does.

use serde_json::json;

use crate::http_runs::seeded;
use crate::support::SOON;

use super::ground::{FAILS, Ground};

#[tokio::test]
async fn a_map_of_thousands_is_one_row_and_unfolded_shows_what_failed_first_and_then_the_rest() {
    let Some(g) = Ground::new(&[FAILS]).await else { return };
    let run = g.db.enqueue("fails", "{}").await;
    let worker = g.worker().await;
    g.db.reaches(&run, "failed", SOON).await;
    drop(worker);
    let run = seeded(&g.db, "fails", 3_000).await;
    let p = &g.page;
    p.open(&format!("/runs/{run}")).await;
    p.until("document.querySelector('[id=\"tl-docs\"] .tl-many')?.innerText === '3,000'").await;
    p.until("document.querySelector('.tabs')?.innerText.includes('6,001')").await;
    assert_eq!(p.eval("document.querySelectorAll('.tl-row').length").await, 1, "and nothing else");
    // How many were at work, where something failed, and what it comes to.
    p.until("document.querySelector('[id=\"tl-docs\"] .fill-work') && document.querySelector('[id=\"tl-docs\"] .fill-failed')").await;
    let note = p.eval("document.querySelector('[id=\"tl-docs\"]').getAttribute('aria-label')").await;
    assert!(note.as_str().is_some_and(|n| n.contains("3,000 items") && n.contains("30 failed")), "{note}");
    p.click("[id=\"tl-docs\"] .tl-fold").await;
    p.until("document.querySelectorAll('[id^=\"tl-docs[\"]').length > 10").await;
    let first = p.eval("[...document.querySelectorAll('[id^=\"tl-docs[\"]')].slice(0, 3).map(row => row.id)").await;
    assert_eq!(first, json!(["tl-docs[7]", "tl-docs[107]", "tl-docs[207]"]), "those that failed stand first");
    let asked = |path: &str| g.page.asked().iter().filter(|url| url.contains(path)).count();
    assert_eq!(asked("under=docs"), 2, "those that failed, and a page of the rest");
    // Down to the end of what was read, and on.
    p.eval("document.querySelector('.tl-scroll').scrollTop = 1e6").await;
    p.until("document.querySelector('.tl-more')?.innerText.includes('2,800')").await;
    p.click(".tl-more").await;
    p.until("Number(document.querySelector('.tl-row').getAttribute('aria-setsize')) > 400").await;
    p.eval("document.querySelector('.tl-scroll').scrollTop = 1e6").await;
    p.until("document.querySelector('.tl-more')?.innerText.includes('2,600')").await;
    assert_eq!(asked("under=docs"), 3);
    // One of them, with what it failed with.
    p.eval("document.querySelector('.tl-scroll').scrollTop = 0").await;
    p.until("document.querySelector('[id=\"tl-docs[7]\"] .tl-fold')").await;
    p.click("[id=\"tl-docs[7]\"] .tl-fold").await;
    p.until("document.querySelector('[id=\"tl-docs[7].save\"]')").await;
    p.click("[id=\"tl-docs[7].save\"]").await;
    p.sees("it is gone").await;
    // The same as a table; and nothing was written.
    p.press("As a table").await;
    p.sees("5,970 completed, 30 failed").await;
    p.press("Logs").await;
    p.sees("No step has written anything").await;
    g.is_clean();
}
