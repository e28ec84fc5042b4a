//! Whose files are obeyed: whoever may write a workflow, the configuration or a secret may do all that stepd can.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::Path;

use crate::cli::{HELLO, stepd_at};
use crate::support::{Db, Files, SOON, Spec, wait_until};

/// A user and a group that nobody has.
const STRANGER: u32 = 47_110;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn give(path: &Path) {
    lchown(path, Some(STRANGER), Some(STRANGER)).unwrap();
}

/// What `stepd config --check` says of a configuration with one workflow and one secret, after something was done to them.
fn told(more: &str, change: impl FnOnce(&Files)) -> Result<(), String> {
    let files = Files::new([HELLO]);
    fs::write(files.path("word"), "geheim\n").unwrap();
    let text = format!("{more}workflows = ['workflows']\n[secrets]\nword = {{ file = 'word' }}\n");
    fs::write(files.path("stepd.toml"), text).unwrap();
    change(&files);
    let done = stepd_at(None, &["config", "--check", "--config", &files.path("stepd.toml").display().to_string()]);
    let err = done.err.replace(&files.path("").display().to_string(), "D/");
    if done.code == Some(0) { Ok(()) } else { Err(err) }
}

#[track_caller]
fn refused(done: Result<(), String>, words: &[&str]) {
    let told = done.unwrap_err();
    for part in words {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn what_everybody_may_write_is_neither_run_nor_read() {
    assert_eq!(told("", |_| {}), Ok(()));
    let everybody = "may be written by everybody: chmod o-w D/";
    let workflow = |f: &Files| f.workflows().join("w0.yaml");
    refused(
        told("", |f| mode(&workflow(f), 0o666)),
        &["are not loaded, because others could have written them", "D/workflows/w0.yaml may be written", everybody],
    );
    refused(
        told("", |f| mode(&f.workflows(), 0o777)),
        &["the folder D/workflows on the way to D/workflows/w0.yaml", everybody],
    );
    refused(told("", |f| mode(&f.path("stepd.toml"), 0o646)), &["D/stepd.toml: it is not read", everybody]);
    refused(
        told("", |f| mode(&f.path("word"), 0o602)),
        &["stepd.toml:3: `secrets.word`", "others could have written it", everybody],
    );
    let linked = |f: &Files| {
        fs::create_dir(f.path("open")).unwrap();
        fs::rename(workflow(f), f.path("open/w.yaml")).unwrap();
        mode(&f.path("open"), 0o777);
        symlink("../open/w.yaml", workflow(f)).unwrap();
    };
    refused(told("", linked), &["the folder D/open on the way to D/workflows/w0.yaml", everybody]);
}

#[test]
fn what_belongs_to_another_user_is_neither_run_nor_read_unless_they_are_named() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give files away");
        return;
    }
    let workflow = |f: &Files| f.workflows().join("w0.yaml");
    let belongs = "belongs to the user 47110, and not to root";
    refused(told("", |f| give(&workflow(f))), &["D/workflows/w0.yaml", belongs, "can be named in workflow_owners"]);
    refused(told("", |f| give(&f.workflows())), &["the folder D/workflows on the way", belongs]);
    refused(told("", |f| give(&f.path("stepd.toml"))), &["D/stepd.toml: it is not read", belongs]);
    refused(told("", |f| give(&f.path("word"))), &["`secrets.word`", belongs]);
    let linked = |f: &Files| {
        fs::rename(workflow(f), f.path("w.yaml")).unwrap();
        symlink("../w.yaml", workflow(f)).unwrap();
        give(&workflow(f));
    };
    refused(told("", linked), &["D/workflows/w0.yaml", belongs]);
    let group = |f: &Files| {
        lchown(workflow(f), None, Some(STRANGER)).unwrap();
        mode(&workflow(f), 0o664);
    };
    refused(told("", group), &["may be written by the group 47110: chmod g-w D/workflows/w0.yaml"]);
    assert_eq!(told("workflow_owners = ['47110']\n", |f| give(&workflow(f))), Ok(()));
    refused(
        told("workflow_owners = ['nobody at all']\n", |_| {}),
        &["workflow_owners: there is no user `nobody at all`"],
    );
    refused(told("workflow_owners = ['47110']\n", |f| give(&f.path("stepd.toml"))), &[belongs]);
}

#[tokio::test]
async fn a_file_that_others_could_have_written_is_not_taken_up_by_a_reload_and_the_daemon_goes_on() {
    let (db, files) = (Db::new().await, Files::new([HELLO]));
    let mut worker = Spec::new(&db, &files).ready().await;
    files.write("evil.yaml", "name: evil\nsteps: [{id: a, run: 'true'}]\n");
    mode(&files.workflows().join("evil.yaml"), 0o666);
    worker.hup();
    worker.logs("reload failed").await;
    assert!(worker.log().contains("may be written by everybody: chmod o-w"), "{}", worker.log());
    assert_eq!(db.count("SELECT count(*) FROM stepd.workflows WHERE name = 'evil'").await, 0);
    let run = db.enqueue("hello", r#"{"who": "Ada"}"#).await;
    db.reaches(&run, "completed", SOON).await;
    mode(&files.workflows().join("evil.yaml"), 0o644);
    worker.hup();
    wait_until("it is taken up", SOON, async || {
        db.count("SELECT count(*) FROM stepd.workflows WHERE name = 'evil'").await == 1
    })
    .await;
    mode(&files.workflows(), 0o777);
    let mut second = Spec::new(&db, &files).start();
    assert_eq!(second.ends(SOON).await.code(), Some(1));
    assert!(second.log().contains("may be written by everybody"), "{}", second.log());
}
