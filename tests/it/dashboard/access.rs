//! Who may do what in it, and who can use it.

use serde_json::json;

use crate::support::SOON;

use super::ground::{FAILS, Ground, STORY};

#[tokio::test]
async fn without_a_token_one_may_look_and_with_one_do_what_it_is_for() {
    let Some(g) = Ground::new(&[STORY, FAILS]).await else { return };
    let _worker = g.worker().await;
    std::fs::write(g.files.path("go"), "").unwrap();
    let run = g.db.enqueue("story", r#"{"n": 1}"#).await;
    g.db.step_reaches(&run, "ok", "waiting", SOON).await;
    let p = &g.page;
    let usable = async |name: &str| {
        p.until(&format!("[...document.querySelectorAll('button')].some(b => b.innerText.trim() === {})", json!(name)))
            .await;
        let find = format!(
            "[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {}).disabled",
            json!(name)
        );
        p.eval(&find).await == json!(false)
    };
    p.open(&format!("/runs/{run}")).await;
    p.sees("Read-only").await;
    p.sees("Ship 1?").await;
    for name in ["Approve", "Reject", "Cancel", "Fork", "Signal"] {
        assert!(!usable(name).await, "{name} without a token");
    }
    // What the page does not offer, the server refuses all the same.
    let refused = format!(
        "fetch('/api/v1/runs/{run}/cancel', {{method: 'POST', headers: {{'Content-Type': 'application/json'}}, body: '{{}}'}}).then(r => r.status)"
    );
    assert_eq!(p.eval(&refused).await, 401);
    p.press("Sign in").await;
    p.fill("dialog input[type=password]", "guessed").await;
    p.key("Enter").await;
    p.sees("token is not known").await;
    p.key("Escape").await;
    p.until("!document.querySelector('dialog')").await;
    g.sign_in("app").await;
    assert!(usable("Signal").await && !usable("Cancel").await, "enqueue is not operate");
    assert_eq!(p.eval("document.cookie").await, "", "no script reads the session");
    p.press("Sign out").await;
    p.sees("Read-only").await;
    g.sign_in("ops").await;
    assert!(usable("Cancel").await && usable("Approve").await);
    p.press("Cancel").await;
    p.fill("dialog input", "no longer wanted").await;
    p.key("Enter").await;
    p.until("document.querySelector('.run-head .state.is-cancelled')").await;
    g.db.reaches(&run, "cancelled", SOON).await;
    p.press("History").await;
    p.sees("no longer wanted").await;
    p.sees("/ops").await;
}

/// Names of what can be used, contrast of what can be read, landmarks, and no element that is wider than the window.
const AUDIT: &str = r#"(() => {
    const bad = [];
    const seen = e => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const named = e => (e.getAttribute('aria-label') ?? '') + (e.innerText ?? '') + (e.labels?.length ? [...e.labels].map(l => l.innerText).join('') : '') + (e.title ?? '');
    for (const e of document.querySelectorAll('button, a[href], input, select, textarea, [role=button], meter, svg[role=img], dialog')) {
        if (seen(e) && !named(e).trim() && !e.querySelector('title, [aria-label]')) bad.push(`no name: ${e.outerHTML.slice(0, 120)}`);
    }
    for (const landmark of ['main', 'nav', 'header', 'h1']) if (!document.querySelector(landmark)) bad.push(`no ${landmark}`);
    if (document.querySelectorAll('h1').length > 1) bad.push('two h1');
    const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) bad.push(`id twice: ${id}`);
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
    const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
    const light = c => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(c[0]) + 0.7152 * f(c[1]) + 0.0722 * f(c[2]); };
    const ground = e => { const all = []; for (let n = e; n; n = n.parentElement) { const c = rgba(getComputedStyle(n).backgroundColor); if (c[3]) { all.push(c); if (c[3] === 1) break; } } return all.reverse().reduce((under, c) => over(c, under), [255, 255, 255, 1]); };
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let n = walk.nextNode(); n; n = walk.nextNode()) {
        const e = n.parentElement;
        if (!n.data.trim() || !seen(e) || e.closest('.off-screen, .skip, [disabled], svg, option, #messages')) continue;
        const g = ground(e), c = over(rgba(getComputedStyle(e).color), g);
        const [a, b] = [light(c), light(g)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) bad.push(`contrast ${ratio.toFixed(2)}: ${n.data.trim().slice(0, 40)} (${e.className})`);
    }
    if (document.documentElement.scrollWidth > innerWidth + 1) bad.push(`wider than the window: ${document.documentElement.scrollWidth} of ${innerWidth}`);
    return [...new Set(bad)];
})()"#;

#[tokio::test]
async fn every_page_can_be_read_and_used_in_both_themes_and_on_a_narrow_window() {
    let Some(g) = Ground::new(&[STORY, FAILS]).await else { return };
    let worker = g.worker().await;
    let failed = g.db.enqueue("fails", "{}").await;
    let run = g.db.enqueue("story", r#"{"n": 1}"#).await;
    g.db.reaches(&failed, "failed", SOON).await;
    std::fs::write(g.files.path("go"), "").unwrap();
    g.db.step_reaches(&run, "ok", "waiting", SOON).await;
    let p = &g.page;
    let (one, two, graph) =
        (format!("/runs/{run}"), format!("/runs/{failed}?step=charge"), format!("/runs/{run}?tab=graph"));
    let compare = format!("/compare?a={run}&b={failed}");
    let pages = [
        "/",
        "/runs",
        "/waiting",
        "/analytics?span=1h",
        "/workflows",
        "/workflows/story",
        "/schedules",
        "/queues",
        "/workers",
        "/health",
        &one,
        &two,
        &graph,
        &compare,
    ];
    let mut bad = Vec::new();
    for (theme, width) in [("light", 1440), ("dark", 390)] {
        p.theme(theme).await;
        p.size(width, 900).await;
        for path in pages {
            p.open(path).await;
            p.until("document.querySelector('.page').innerText.length > 40 && !document.querySelector('.page').innerText.includes('Loading')").await;
            let found = p.eval(AUDIT).await;
            bad.extend(
                found.as_array().unwrap().iter().map(|b| format!("{path} {theme} {width}: {}", b.as_str().unwrap())),
            );
        }
    }
    assert_eq!(bad, Vec::<String>::new());
    // It would have found something.
    p.eval("(() => { const b = document.createElement('button'), t = document.createElement('p'); t.textContent = 'faint'; t.style.color = '#888'; t.style.background = '#777'; b.style.width = '9999px'; document.querySelector('.page').append(b, t); })()").await;
    let found = p.eval(AUDIT).await.to_string();
    assert!(found.contains("no name") && found.contains("contrast") && found.contains("wider"), "{found}");
    drop(worker);
    g.is_clean();
}
