//! Where the machine keeps its Postgres server.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::PostgresError;

/// Overrides the search.
pub const OVERRIDE: &str = "STEPD_POSTGRES_BIN";

/// Folders that hold one version each under a name that ends in it: (parent, prefix, rest of the path).
const VERSIONED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/usr/lib64", "pgsql-", "bin"),
];

/// Folders that hold whatever version there is.
const PLAIN: [&str; 5] = [
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql/bin",
    "/usr/local/opt/postgresql/bin",
    "/Applications/Postgres.app/Contents/Versions/latest/bin",
    "/usr/local/bin",
];

/// The folder that holds `initdb` and `postgres`.
pub fn find() -> Result<PathBuf, PostgresError> {
    if let Some(given) = std::env::var_os(OVERRIDE).filter(|v| !v.is_empty()) {
        let folder = PathBuf::from(given);
        return if is_server(&folder) { Ok(folder) } else { Err(PostgresError::BadOverride(folder)) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    on_path(&path).or_else(asked).or_else(usual).ok_or(PostgresError::NoBinaries)
}

fn is_server(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file())
}

fn on_path(path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).filter(|folder| folder.is_absolute() && is_server(folder)).find_map(|folder| {
        // A link in /usr/local/bin leads to the folder that has the other programs, too.
        let real = std::fs::canonicalize(folder.join("initdb")).ok()?;
        let home = real.parent().filter(|home| is_server(home)).unwrap_or(&folder);
        Some(home.to_owned())
    })
}

fn asked() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    is_server(&folder).then_some(folder)
}

fn usual() -> Option<PathBuf> {
    VERSIONED
        .iter()
        .find_map(|(parent, prefix, rest)| newest(Path::new(parent), prefix, rest))
        .or_else(|| PLAIN.iter().map(PathBuf::from).find(|folder| is_server(folder)))
}

/// The highest version below `parent`, by number and not by letter: 9.6 < 15 < 18.
fn newest(parent: &Path, prefix: &str, rest: &str) -> Option<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(parent)
        .ok()?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let version: Option<Vec<u32>> =
                name.to_str()?.strip_prefix(prefix)?.split('.').map(|n| n.parse().ok()).collect();
            Some((version?, parent.join(&name).join(rest)))
        })
        .filter(|(_, folder)| is_server(folder))
        .collect();
    found.sort();
    found.pop().map(|(_, folder)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(root: &Path, folder: &str, programs: &[&str]) {
        let bin = root.join(folder).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        for program in programs {
            std::fs::write(bin.join(program), "").unwrap();
        }
    }

    #[test]
    fn the_newest_version_wins_by_number_and_a_client_install_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), "9.6", &["initdb", "postgres"]);
        install(root.path(), "15", &["initdb", "postgres"]);
        install(root.path(), "18", &["psql"]);
        install(root.path(), "common", &["initdb", "postgres"]);
        assert_eq!(newest(root.path(), "", "bin"), Some(root.path().join("15/bin")));
        assert_eq!(newest(&root.path().join("nowhere"), "", "bin"), None);
    }

    #[test]
    fn path_is_searched_for_the_server_and_not_for_a_client() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), "client", &["psql", "initdb"]);
        install(root.path(), "server", &["initdb", "postgres"]);
        let links = root.path().join("links");
        std::fs::create_dir(&links).unwrap();
        for program in ["initdb", "postgres"] {
            std::os::unix::fs::symlink(root.path().join("server/bin").join(program), links.join(program)).unwrap();
        }
        for folder in [root.path().join("server/bin"), links] {
            let path = std::env::join_paths([root.path().join("client/bin"), folder]).unwrap();
            assert_eq!(on_path(&path), Some(root.path().canonicalize().unwrap().join("server/bin")));
        }
    }
}
