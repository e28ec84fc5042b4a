//! A layer: what one source says, checked, each value with the place where it stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Map, Source, Value, ValueKind};

use crate::os::trust::Trust;

use super::keys::{self, Form, Key};

/// Something wrong, where it stands, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// `/etc/stepd/stepd.toml:12`, `STEPD_CONCURRENCY`, `--concurrency`.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

/// What one source says.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    pub values: Map<String, Value>,
    pub wrong: Vec<Complaint>,
}

/// The keys that say which database, and how it is reached.
const PLACE: [&str; 11] = [
    "database_url",
    "database_url_file",
    "database_host",
    "database_port",
    "database_name",
    "database_user",
    "database_password",
    "database_password_file",
    "database_sslmode",
    "database_sslrootcert",
    "database_direct_url",
];

impl Layer {
    /// Adds a complaint.
    pub(super) fn complain(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.wrong.push(Complaint { place: place.into(), what: what.into() });
    }

    /// A value given as text.
    pub(super) fn text(&mut self, key: &'static Key, text: &str, place: &str) {
        match key.form.of_text(text) {
            Ok(kind) => self.set(key.name, kind, place),
            Err(why) => {
                // What a secret is, nobody is told, not even where it is wrong.
                let why = if key.secret { "it is not".to_owned() } else { why };
                self.complain(place, format!("`{}` must be {}; {why}", key.name, key.form.words()));
            }
        }
    }

    /// A value that has been checked.
    pub(super) fn set(&mut self, key: &str, kind: impl Into<ValueKind>, place: &str) {
        self.values.insert(key.to_owned(), Value::new(Some(&place.to_owned()), kind));
    }

    /// One entry of a table.
    pub(super) fn entry(&mut self, key: &str, name: &str, text: &str, place: &str) {
        if let Some(Form::Profiles(parts)) = keys::find(key).map(|k| k.form) {
            return self.part(key, parts, name, text, place);
        }
        if let Some(Err(why)) = keys::find(key).map(|k| k.form.of_entry(name, text)) {
            return self.complain(place, format!("`{key}.{name}`: {why}"));
        }
        let table = self.values.entry(key.to_owned()).or_insert_with(|| Map::<String, Value>::new().into());
        if let ValueKind::Table(table) = &mut table.kind {
            table.insert(name.to_owned(), Value::new(Some(&place.to_owned()), text));
        }
    }

    /// A URL names a database as a whole: what lighter layers say of it no longer counts.
    pub(super) fn replace_database(&mut self) {
        if self.values.contains_key("database_url") {
            for key in PLACE {
                self.values.entry(key.to_owned()).or_insert_with(|| Value::new(None, ValueKind::Nil));
            }
        }
    }

    /// Reads the files that keys ending in `_file` name.
    pub(super) fn read_files(&mut self, folders: &Folders) {
        for key in ["database_url", "database_password"] {
            let by_file = format!("{key}_file");
            let Some(value) = self.values.get(&by_file) else { continue };
            let (place, file) = (value.origin().unwrap_or_default().to_owned(), value.clone().into_string());
            if self.values.contains_key(key) {
                self.complain(&place, format!("both `{key}` and `{by_file}` are given; keep one of them"));
            }
            match file.map_err(|e| e.to_string()).and_then(|file| folders.read(Path::new(&file))) {
                Ok(Some((text, path))) => {
                    if let Some(key) = keys::find(key) {
                        self.text(key, &text, &format!("{} ({place})", path.display()));
                    }
                }
                Ok(None) => {}
                Err(why) => self.complain(&place, format!("`{by_file}`: {why}")),
            }
        }
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.values.clone())
    }
}

/// Where relative paths lead.
#[derive(Clone, Debug, Default)]
pub(super) struct Folders {
    /// The configuration file's own.
    pub own: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`: where systemd puts what `LoadCredential=` names.
    pub credentials: Option<PathBuf>,
    /// There are credentials, and this process may not see them.
    pub hidden: bool,
}

/// A secret is no book.
const LARGEST: u64 = 1 << 20;

impl Folders {
    /// A path as the configuration file means it: beside the file.
    pub(super) fn beside(&self, path: &Path) -> PathBuf {
        self.own.as_ref().map_or_else(|| path.to_owned(), |own| own.join(path))
    }

    /// The content of a file that holds one value, without the newline at its end, and which file that was. A relative name is
    /// a credential's, where there is one of that name; `None`: it may be, and cannot be seen.
    pub(super) fn read(&self, path: &Path) -> Result<Option<(String, PathBuf)>, String> {
        let credential = self.credentials.as_ref().map(|c| c.join(path)).filter(|c| path.is_relative() && c.exists());
        let path = credential.unwrap_or_else(|| self.beside(path));
        if self.hidden && !path.exists() {
            return Ok(None);
        }
        let about = |why: &dyn std::fmt::Display| format!("{} cannot be read: {why}", path.display());
        let meta = std::fs::metadata(&path).map_err(|e| about(&e))?;
        Trust::default().check(&path).map_err(|why| format!("others could have written it: {why}"))?;
        if meta.len() > LARGEST {
            return Err(about(&format!("it has {} bytes; a value has {LARGEST} at the most", meta.len())));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| about(&e))?;
        Ok(Some((text.trim_end_matches(['\n', '\r']).to_owned(), path)))
    }
}

/// What systemd has been told to hand over (`LoadCredential=`): a credential that is named as a key is that key's value, one
/// that is named `secrets.NAME` or `connections.NAME` an entry of that table. Others are none of ours.
pub(super) fn credentials(folders: &Folders) -> Layer {
    let mut layer = Layer::default();
    let Some(folder) = folders.credentials.as_ref().filter(|_| !folders.hidden) else { return layer };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            layer.complain("CREDENTIALS_DIRECTORY", format!("{} cannot be read: {error}", folder.display()));
            return layer;
        }
    };
    let names: BTreeMap<String, PathBuf> =
        entries.flatten().filter_map(|e| Some((e.file_name().into_string().ok()?, e.path()))).collect();
    for (name, path) in names {
        let (head, tail) = name.split_once('.').map_or((name.as_str(), None), |(head, tail)| (head, Some(tail)));
        let Some(key) = keys::find(head).filter(|k| k.form.is_table() == tail.is_some()) else { continue };
        let place = format!("credential {name}");
        match (folders.read(&path), tail) {
            (Ok(Some((text, _))), None) => layer.text(key, &text, &place),
            (Ok(Some((text, _))), Some(entry)) => layer.entry(key.name, entry, &text, &place),
            (Ok(None), _) => {}
            (Err(why), _) => layer.complain(place, why),
        }
    }
    layer
}
