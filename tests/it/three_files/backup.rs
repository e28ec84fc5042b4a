//! `nightly_backup`, with the machine's own `pg_dump`; to its end, failed, and killed in each step.

use super::ground::{Answer, Ground, on_path};
use crate::support::{SOON, wait_until};

pub async fn start(g: &Ground) -> String {
    g.db.one("SELECT stepd.run_schedule('nightly_backup')::text").await
}

/// How many dumps there are; each must be one.
fn dumps(g: &Ground) -> usize {
    let files = std::fs::read_dir(g.files.path("backup")).unwrap().map(|e| e.unwrap().path());
    let dumps: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "dump")).collect();
    for dump in &dumps {
        let listed = std::process::Command::new("pg_restore").arg("-l").arg(dump).output().unwrap();
        assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("orders"), "{dump:?}");
    }
    dumps.len()
}

fn without_pg_dump() -> bool {
    let missing = !on_path("pg_dump") || !on_path("pg_restore");
    if missing {
        eprintln!("SKIPPED: there is no pg_dump on this machine");
    }
    missing
}

#[tokio::test]
async fn a_backup_is_made_old_ones_are_removed_and_the_health_check_hears_how_it_ended() {
    if without_pg_dump() {
        return;
    }
    let g = Ground::new().await;
    g.program(
        "touch_old",
        "touch -d '20 days ago' @DIR@/backup/old.dump; touch -d '20 days ago' @DIR@/backup/note.txt",
    );
    assert!(std::process::Command::new(g.files.path("bin").join("touch_old")).status().unwrap().success());
    let _worker = g.worker().await;
    let run = start(&g).await;
    g.db.reaches(&run, "completed", SOON).await;
    assert_eq!(dumps(&g), 1);
    assert!(!g.files.path("backup").join("old.dump").exists() && g.files.path("backup").join("note.txt").exists());
    let asked: Vec<_> = g.services.asked(&run).into_iter().map(|a| (a.what, a.key)).collect();
    assert_eq!(asked, [("POST /nightly/completed".to_owned(), format!("{run}/finally[0]"))]);
}

#[tokio::test]
async fn a_backup_that_fails_is_told_so_too_and_an_old_one_that_cannot_be_removed_is_no_failure() {
    let g = Ground::new().await;
    g.program("find", "exit 127");
    // Twice the server is busy; then the dump is made, or cannot be made at all.
    g.program(
        "pg_dump",
        "echo x >> @DIR@/dumps; test $(wc -l < @DIR@/dumps) -gt 2 || exit 75; test -e @DIR@/fine || exit 127",
    );
    std::fs::write(g.files.path("fine"), "").unwrap();
    let _worker = g.worker().await;
    let fine = start(&g).await;
    g.db.reaches(&fine, "completed", SOON).await;
    assert_eq!(g.files.lines("dumps").len(), 3, "75 is tried again");
    std::fs::remove_file(g.files.path("fine")).unwrap();
    let failed = start(&g).await;
    g.db.reaches(&failed, "failed", SOON).await;
    assert_eq!((g.files.lines("dumps").len(), g.error(&failed).await), (4, "exit_127".to_owned()), "127 is not");
    for (run, state) in [(&fine, "completed"), (&failed, "failed")] {
        let asked: Vec<_> = g.services.asked(run).into_iter().map(|a| a.what).collect();
        assert_eq!(asked, [format!("POST /nightly/{state}")]);
    }
}

#[tokio::test]
async fn killed_in_each_step_of_it_a_backup_is_made_and_told_of() {
    if without_pg_dump() {
        return;
    }
    let g = Ground::new().await;
    // `find` waits as long as a file is there.
    g.program(
        "find",
        "echo x >> @DIR@/found; while test -e @DIR@/hold; do sleep 0.05; done; exec /usr/bin/find \"$@\"",
    );
    let mut worker = g.worker().await;
    g.services.answer("POST /nightly/", Answer::Never);
    let told = start(&g).await;
    g.services.hears(&told).await;
    std::fs::write(g.files.path("hold"), "").unwrap();
    let pruning = start(&g).await;
    g.db.step_reaches(&pruning, "prune", "running", SOON).await;
    wait_until("find runs", SOON, async || g.files.lines("found").len() == 2).await;
    // pg_dump waits for a table.
    let lock = g.lock("app.orders").await;
    let dumping = start(&g).await;
    g.db.step_reaches(&dumping, "dump", "running", SOON).await;
    worker.kill9();
    drop(lock);
    std::fs::remove_file(g.files.path("hold")).unwrap();
    g.services.recover();
    let _heir = g.worker().await;
    for (run, step, posts) in [(&told, "finally[0]", 2), (&pruning, "prune", 1), (&dumping, "dump", 1)] {
        g.db.reaches(run, "completed", SOON).await;
        g.went_on_from(run, step).await;
        let asked = g.services.asked(run);
        assert_eq!(asked.len(), posts, "{asked:?}");
        assert!(asked.iter().all(|a| a.what == "POST /nightly/completed" && a.key == format!("{run}/finally[0]")));
    }
    assert_eq!(dumps(&g), 3, "a dump of each run");
    assert_eq!(g.files.lines("found").len(), 4, "the one that was interrupted, twice");
}
