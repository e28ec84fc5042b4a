//! What happens is seen as it happens, without a reload.

use crate::support::{SOON, wait_until};

use super::ground::{FAILS, Ground, STORY};

#[tokio::test]
async fn a_run_is_enqueued_killed_resumed_approved_forked_and_compared_before_ones_eyes() {
    let Some(g) = Ground::new(&[STORY]).await else { return };
    let p = &g.page;
    let mut one = g.worker().await;
    p.open("/workflows/story").await;
    g.sign_in("ops").await;
    p.eval("window.sameDocument = true").await;
    p.sees("How many").await;
    p.fill(".schema-form input[type=number]", "7").await;
    p.press("Enqueue").await;
    p.until("location.pathname.startsWith('/runs/')").await;
    let run = p.eval("location.pathname.slice(6)").await.as_str().unwrap().to_owned();
    p.until("document.querySelector('.state.is-running')").await;
    p.until("document.querySelector('[id=\"tl-slow\"] .fill-work')").await;
    let two = g.worker().await;
    one.kill9();
    // Both are seen: that it died, in which step, and that another has it.
    p.until(
        "document.querySelector('.tl-owners .mark-crash') && document.querySelector('[id=\"tl-slow\"] .mark-crash')",
    )
    .await;
    p.until("document.querySelector('.tl-owners .mark-resume') && document.querySelectorAll('.own').length === 2")
        .await;
    let pids = p.eval("document.querySelector('.tl-owners .mark-resume title').textContent").await;
    let (old, new) = (format!("·{}", one.pid()), format!("·{}", two.pid()));
    assert!(pids.as_str().is_some_and(|t| t.contains(&old) && t.contains(&new)), "{pids}");
    std::fs::write(g.files.path("go"), "").unwrap();
    // Thirty items are one row until it is opened.
    p.sees("Ship 7?").await;
    p.until("document.querySelector('[id=\"tl-parts\"] .tl-many').innerText === '30'").await;
    assert_eq!(p.eval("document.querySelectorAll('[id^=\"tl-parts[\"]').length").await, 0);
    p.click("[id=\"tl-parts\"] .tl-fold").await;
    p.until("document.querySelectorAll('[id^=\"tl-parts[\"]').length === 30").await;
    p.fill(".ask input", "looks good").await;
    p.press("Approve").await;
    p.until("document.querySelector('.run-head .state.is-completed')").await;
    p.press("History").await;
    p.sees("looks good").await;
    // A fork with another input keeps what came before the step.
    p.press("Fork").await;
    p.eval("document.querySelector('dialog select').value = 'ok'").await;
    p.fill("dialog textarea", "{\"n\": 9}").await;
    p.click("dialog button[type=submit]").await;
    p.until(&format!("location.pathname.startsWith('/runs/') && location.pathname !== '/runs/{run}'")).await;
    p.sees("Ship 9?").await;
    p.press("Approve").await;
    p.until("document.querySelector('.run-head .state.is-completed')").await;
    p.click(".run-head a[href^='/compare']").await;
    p.until("document.querySelectorAll('.compare .timeline').length === 2").await;
    p.until("[...document.querySelectorAll('td.mono')].some(td => td.innerText === 'n')").await;
    let inputs = p.eval("[...document.querySelectorAll('.diff-a, .diff-b')].map(e => e.innerText)").await;
    assert!(inputs.to_string().contains("\"7\",\"9\""), "{inputs}");
    assert_eq!(p.eval("window.sameDocument").await, true, "all of it in one document");
    g.is_clean();
}

#[tokio::test]
async fn new_runs_wait_behind_a_bar_and_a_cut_network_loses_nothing() {
    let Some(mut g) = Ground::new(&[STORY, FAILS]).await else { return };
    let _worker = g.worker().await;
    let first = g.db.enqueue("fails", "{}").await;
    g.db.reaches(&first, "failed", SOON).await;
    g.page.open("/runs").await;
    g.page.until("document.querySelectorAll('tbody tr').length === 1 && document.querySelector('.live').innerText.includes('Live')").await;
    g.page.eval("window.sameDocument = true; window.top1 = document.querySelector('tbody tr')").await;
    // A new one does not push the others away.
    g.db.enqueue("fails", "{}").await;
    g.page.sees("1 new run").await;
    assert_eq!(
        g.page.eval("document.querySelector('tbody tr') === window.top1").await,
        true,
        "the rows have not moved"
    );
    g.page.press("1 new run – show").await;
    g.page.until("document.querySelectorAll('tbody tr').length === 2").await;
    // The daemon dies; what happens meanwhile is there when another stands in its place.
    g.server.kill9();
    g.page.sees("The server does not answer").await;
    assert_eq!(g.page.eval("document.querySelectorAll('tbody tr').length").await, 2, "what was seen stays");
    let missed = g.db.enqueue("fails", "{}").await;
    g.db.reaches(&missed, "failed", SOON).await;
    g.server = g.spec.ready().await;
    g.page.until("!document.querySelector('.cut')").await;
    g.page.sees("1 new run").await;
    // The browser's own network.
    g.page.offline(true).await;
    g.page.sees("The server does not answer").await;
    g.page.offline(false).await;
    g.page.until("!document.querySelector('.cut')").await;
    // Held, it stands still; let go, it goes on.
    g.page.key("p").await;
    g.page.until("document.querySelector('.live').innerText.includes('Paused')").await;
    let while_held = g.db.enqueue("fails", "{}").await;
    g.db.reaches(&while_held, "failed", SOON).await;
    assert!(!g.page.shows("2 new runs").await);
    g.page.key("p").await;
    g.page.sees("2 new runs").await;
    assert_eq!(g.page.eval("window.sameDocument").await, true);
}

#[tokio::test]
async fn with_the_keyboard_alone_one_finds_a_run_and_acts_on_all_that_match_after_a_count() {
    let Some(g) = Ground::new(&[FAILS]).await else { return };
    let worker = g.worker().await;
    for _ in 0..3 {
        let run = g.db.enqueue("fails", "{}").await;
        g.db.reaches(&run, "failed", SOON).await;
    }
    drop(worker);
    let p = &g.page;
    p.open("/").await;
    g.sign_in("ops").await;
    p.until("document.querySelector('.tile')").await;
    p.key("?").await;
    p.sees("Hold everything as it is").await;
    p.key("Escape").await;
    p.until("!document.querySelector('dialog')").await;
    for key in ["g", "r"] {
        p.key(key).await;
    }
    p.until("location.pathname === '/runs'").await;
    p.until("document.querySelectorAll('tbody tr').length === 3").await;
    p.key("/").await;
    p.until("document.activeElement.matches('[data-filter]')").await;
    p.types("state:failed workflow:fails").await;
    p.key("Enter").await;
    p.until("location.search.includes('failed') && document.querySelectorAll('tbody tr').length === 3").await;
    p.key("j").await;
    p.key("j").await;
    p.until("document.querySelectorAll('tr.at').length === 1").await;
    p.key("Enter").await;
    p.until("location.pathname.startsWith('/runs/')").await;
    p.until("document.querySelectorAll('.fill-failed').length >= 2").await;
    // Down the rows of the timeline, and into one.
    p.eval("document.querySelector('.tl-rows').focus()").await;
    for key in ["ArrowDown", "ArrowDown", "Enter"] {
        p.key(key).await;
    }
    p.until("document.querySelector('.step-side h2')?.innerText === 'charge'").await;
    p.sees("declined").await;
    p.key("g").await;
    p.key("r").await;
    p.until("document.querySelectorAll('tbody tr').length === 3").await;
    p.key("j").await;
    p.key("x").await;
    p.sees("1 run selected").await;
    p.press("Retry").await;
    p.sees("Retry 1 run?").await;
    p.key("Escape").await;
    // All that match: counted first.
    p.open("/runs?filter=state%3Afailed").await;
    p.until("document.querySelectorAll('tbody tr').length === 3").await;
    p.click("thead input").await;
    p.press("Retry").await;
    p.sees("Retry 3 runs?").await;
    p.key("Enter").await;
    wait_until("all three are taken up again", SOON, async || {
        g.db.count("SELECT count(*) FROM stepd.history WHERE event = 'retried'").await == 3
    })
    .await;
    p.sees("3 runs retried").await;
    g.is_clean();
}
