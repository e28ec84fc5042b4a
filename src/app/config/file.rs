//! The configuration file: TOML, read with the line of every value.

use std::ops::Range;
use std::path::Path;

use config::{Value, ValueKind};
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::keys::{self, Form, Key};
use super::layer::{Folders, Layer};
use super::profiles;

/// Reads a file; everything that is wrong with it is in the layer.
pub(super) fn read(path: &Path, text: &str, folders: &Folders) -> Layer {
    let file = File { name: path.display().to_string(), text, folders };
    let mut layer = Layer::default();
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = file.place(error.span().unwrap_or(0..0));
        layer.complain(place, format!("this is no TOML: {}", error.message().replace('\n', ", ")));
    }
    if errors.is_empty() {
        for (name, value) in table.get_ref() {
            file.take(&mut layer, name, value);
        }
    }
    // The parser gives the keys by name; people read from the top.
    layer.wrong.sort_by_key(|c| c.place.rsplit_once(':').and_then(|(_, line)| line.parse::<usize>().ok()));
    layer
}

struct File<'a> {
    name: String,
    text: &'a str,
    folders: &'a Folders,
}

type Named<'i> = Spanned<DeString<'i>>;

impl File<'_> {
    fn place(&self, span: Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        format!("{}:{}", self.name, before.matches('\n').count() + 1)
    }

    fn take(&self, layer: &mut Layer, name: &Named<'_>, value: &Spanned<DeValue<'_>>) {
        let place = self.place(name.span());
        match keys::find(name.get_ref()) {
            Some(key) => self.take_key(layer, key, &place, value),
            None => {
                let advice = keys::advice(name.get_ref(), keys::KEYS.iter().map(|k| k.name));
                layer.complain(place, format!("there is no key `{}`; {advice}", name.get_ref()));
            }
        }
    }

    fn take_key(&self, layer: &mut Layer, key: &'static Key, place: &str, value: &Spanned<DeValue<'_>>) {
        match (key.form, value.get_ref()) {
            (Form::Profiles(parts), DeValue::Table(table)) => {
                for (name, value) in table {
                    self.take_profile(layer, key, parts, name, value);
                }
            }
            (form, DeValue::Table(table)) if form.is_table() => {
                for (name, value) in table {
                    self.take_entry(layer, key, name, value);
                }
            }
            (Form::Texts | Form::Paths, DeValue::Array(items)) => self.take_list(layer, key, items, place),
            (Form::Texts | Form::Paths, DeValue::String(_)) => {
                layer.complain(place, format!("`{}` must be {}; it is one text", key.name, key.form.words()));
            }
            (Form::Price | Form::Share, DeValue::Float(n)) => layer.text(key, n.as_str(), place),
            (Form::Price | Form::Share, DeValue::Integer(n)) => layer.text(key, n.as_str(), place),
            (Form::Number(..) | Form::Ports, DeValue::Integer(n)) => {
                let text = i64::from_str_radix(&n.as_str().replace('_', ""), n.radix()).map(|n| n.to_string());
                layer.text(key, &text.unwrap_or_else(|_| n.as_str().to_owned()), place);
            }
            (Form::Path, DeValue::String(path)) => {
                // Credentials have short names; where they are, only the reading knows.
                let path = match key.name.ends_with("_file") {
                    true => path.to_string(),
                    false => self.folders.beside(Path::new(&**path)).display().to_string(),
                };
                layer.set(key.name, path, place);
            }
            (Form::Text | Form::Word(_) | Form::Level | Form::Url | Form::Ports, DeValue::String(text)) => {
                layer.text(key, text, place);
            }
            (form, other) => {
                let why = format!("`{}` must be {}; it is {}", key.name, form.words(), kind_of(other));
                layer.complain(place, why);
            }
        }
    }

    /// One server or model: a table of parts, of which each is checked like a key.
    fn take_profile(
        &self,
        layer: &mut Layer,
        key: &Key,
        parts: &'static [Key],
        name: &Named<'_>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let (place, full) = (self.place(name.span()), format!("{}.{}", key.name, name.get_ref()));
        if !profiles::is_name(name.get_ref()) {
            return layer.complain(place, profiles::wrong_name(key.name, name.get_ref()));
        }
        let DeValue::Table(table) = value.get_ref() else {
            let kind = kind_of(value.get_ref());
            return layer.complain(place, format!("`{full}` must be a table: [{full}]; it is {kind}"));
        };
        let mut said = Layer::default();
        for (part, value) in table {
            let place = self.place(part.span());
            match parts.iter().find(|p| p.name == part.get_ref()) {
                Some(found) => self.take_key(&mut said, found, &place, value),
                None => {
                    let names = || parts.iter().map(|p| p.name);
                    let advice = match keys::suggestion(part.get_ref(), names()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("it may have: {}", names().collect::<Vec<_>>().join(", ")),
                    };
                    said.complain(place, format!("`{full}` has no `{}`; {advice}", part.get_ref()));
                }
            }
        }
        layer.profile(key.name, name.get_ref(), said, &place);
    }

    fn take_list(&self, layer: &mut Layer, key: &Key, items: &DeArray<'_>, place: &str) {
        let mut list = Vec::new();
        for item in items {
            let Some(text) = item.get_ref().as_str() else {
                let (words, kind) = (key.form.words(), kind_of(item.get_ref()));
                layer.complain(self.place(item.span()), format!("`{}` must be {words}; in it is {kind}", key.name));
                continue;
            };
            let text = match key.form {
                Form::Paths => self.folders.beside(Path::new(text)).display().to_string(),
                _ => text.to_owned(),
            };
            list.push(Value::new(Some(&place.to_owned()), text));
        }
        layer.set(key.name, ValueKind::Array(list), place);
    }

    fn take_entry(&self, layer: &mut Layer, key: &Key, name: &Named<'_>, value: &Spanned<DeValue<'_>>) {
        let (place, full) = (self.place(name.span()), format!("{}.{}", key.name, name.get_ref()));
        let read = match value.get_ref() {
            DeValue::String(text) => return layer.entry(key.name, name.get_ref(), text, &place),
            DeValue::Float(n) if key.form == Form::Shares => {
                return layer.entry(key.name, name.get_ref(), n.as_str(), &place);
            }
            DeValue::Integer(n) if matches!(key.form, Form::Shares | Form::Limits) => {
                return layer.entry(key.name, name.get_ref(), n.as_str(), &place);
            }
            DeValue::Table(by) if key.form == Form::FileTable => {
                for (word, _) in by.iter().filter(|(word, _)| word.get_ref() != "file") {
                    let advice = keys::advice(word.get_ref(), ["file"].into_iter());
                    layer.complain(self.place(word.span()), format!("`{full}` has no `{}`; {advice}", word.get_ref()));
                }
                match by.iter().find(|(word, _)| word.get_ref() == "file").map(|(_, file)| file.get_ref().as_str()) {
                    Some(Some(file)) => self.folders.read(Path::new(file)),
                    _ => Err("{ file = \"…\" } must name a file".to_owned()),
                }
            }
            other => {
                let form = if key.form == Form::FileTable {
                    "text in quotes, or { file = \"…\" }"
                } else {
                    "text in quotes"
                };
                Err(format!("it must be {form}; it is {}", kind_of(other)))
            }
        };
        match read {
            Ok(None) => {}
            Ok(Some((text, path))) => {
                layer.entry(key.name, name.get_ref(), &text, &format!("{} ({place})", path.display()))
            }
            Err(why) => layer.complain(place, format!("`{full}`: {why}")),
        }
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
